"""`python3 -m vllm.entrypoints.openai.api_server`."""

from stand_in.vllm import main

if __name__ == "__main__":
    main()
