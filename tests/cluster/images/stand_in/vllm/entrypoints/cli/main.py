"""The command `vllm`."""

from stand_in.vllm import serve as main

__all__ = ["main"]
