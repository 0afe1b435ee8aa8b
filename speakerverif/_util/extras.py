"""The package's extras: modules that `pip install speakerverif[NAME]` adds, and advice where one is missing."""

import importlib.util

from speakerverif.errors import InputError

# Extra -> the modules that it installs and this package imports.
EXTRAS = {
    "report": ("matplotlib", "PIL", "sklearn"),
    "hub": ("huggingface_hub",),
    "import": ("yaml",),
    "onnx": ("onnx", "onnxruntime"),
    "parquet": ("pyarrow",),
    "index": ("faiss",),
    "encrypt": ("cryptography",),
    "sklearn": ("sklearn",),
    "completion": ("shtab",),
    "ssl": ("torchaudio",),
    "w2v_bert": ("transformers",),
    "serve": ("fastapi", "uvicorn", "websockets", "python_multipart"),
    "listen": ("sounddevice",),
}


def require(extra: str, purpose: str) -> None:
    """Check that an extra is installed.

    Args:
        extra: a key of `EXTRAS`.
        purpose: the feature that needs it; begins the message.

    Raises:
        InputError: a module of it is missing.
    """
    for module in EXTRAS[extra]:
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{purpose} needs {module}: pip install 'speakerverif[{extra}]'")


def advice(module: str) -> str | None:
    """Return one line on how to install a missing module, or None where no extra contains it."""
    top = module.partition(".")[0]
    if top == "torch":
        return (
            "torch is not installed: pip install torch; without it, embed, verify, enroll, identify and score take "
            "ONNX files (--model FILE.onnx)"
        )
    extra = next((extra for extra, modules in EXTRAS.items() if top in modules), None)
    return None if extra is None else f"{top} is not installed: pip install 'speakerverif[{extra}]'"
