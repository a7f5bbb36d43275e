"""Where vLLM is: here is its stand-in."""
