"""`python3 -m sglang.launch_server`."""

from stand_in.sglang import main

if __name__ == "__main__":
    main()
