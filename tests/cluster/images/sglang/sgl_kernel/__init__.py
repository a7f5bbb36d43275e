"""Stands in for SGLang's CUDA kernels, which cannot be loaded on a machine without CUDA.

SGLang imports names from here also where it does not call them. Every name is a function that says so
when it is called after all; nothing on the way of a request on a CPU does.
"""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args, **_kwargs):
        raise NotImplementedError(f"sgl_kernel.{name} needs CUDA, and this image is built for CPUs")

    return missing
