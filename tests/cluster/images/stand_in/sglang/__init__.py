"""Where SGLang is: here is its stand-in."""
