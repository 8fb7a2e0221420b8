"""A folder of configuration to make mistakes in."""

import shutil
from pathlib import Path

from proxy.settings.loader import load_settings
from proxy.settings.mistakes import SettingsError
from proxy.settings.types import Settings

ROOT = Path(__file__).parents[2]
SOUND = Path(__file__).parent / "sound"
NOW_MS = 1_793_487_600_000  # 2026-11-01 00:00 in Paris


def sound_folder(tmp_path: Path) -> Path:
    """Return a folder with a small, sound configuration."""
    return shutil.copytree(SOUND, tmp_path / "config")


def edit(folder: Path, name: str, old: str, new: str) -> None:
    """Replace a piece of a file that must be there."""
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def load(folder: Path, **environ: str) -> Settings:
    """Load a folder that must be sound."""
    return load_settings(folder, environ, now_ms=NOW_MS)


def mistakes(folder: Path, **environ: str) -> list[str]:
    """Return the mistakes of a folder, its own name left out."""
    try:
        load(folder, **environ)
    except SettingsError as error:
        return [str(mistake).replace(f"{folder}/", "") for mistake in error.mistakes]
    return []
