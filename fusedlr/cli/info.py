"""``info``: what is built, and which engine serves which device."""

from __future__ import annotations

from fusedlr._backend import backend_info


def facts() -> list[tuple[str, str]]:
    """The entries of :func:`fusedlr.backend_info` that have a value, one line each."""
    info = backend_info()
    devices = info.pop("devices")
    missing = info.pop("not_built")
    lines = [(name.replace("_", " "), str(value)) for name, value in info.items() if value]
    for device, choice in devices.items():
        lines.append((f"engine for {device}", f"{choice['engine']} ({choice['reason']})"))
    for engine, reason in missing.items():
        lines.append((f"no engine {engine}", reason))
    return lines


def plain_text() -> str:
    """The facts as lines of text."""
    lines = facts()
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)
