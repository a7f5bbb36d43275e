"""The ways to start vLLM."""
