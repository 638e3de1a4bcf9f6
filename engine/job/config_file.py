"""Settings of a job from a YAML or TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.settings import setting_named


def read_config(path: Path) -> dict[str, Any]:
    """Settings of a YAML (.yaml, .yml) or TOML (.toml) file, by name with underscores, types checked.

    Raises UserError for a file that cannot be read, an unknown key (with the nearest known one) or a wrong value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"configuration file {path} cannot be read: {reason}") from None
    content: Any
    if path.suffix.lower() == ".toml":
        import tomllib

        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"configuration file {path} is not valid TOML: {error}") from None
    elif path.suffix.lower() in (".yaml", ".yml"):
        import yaml

        try:
            top = yaml.compose(text, Loader=yaml.SafeLoader)
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"configuration file {path} is not valid YAML: {' '.join(str(error).split())}") from None
        # Of a key that stands there twice, the library silently takes the second.
        keys = [key.value for key, _ in top.value] if isinstance(top, yaml.MappingNode) else []
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise UserError(f"configuration file {path}: setting {twice[0]!r} is given twice")
    else:
        raise UserError(f"configuration file {path} is neither .yaml, .yml nor .toml: rename it to what it is")
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"configuration file {path} holds no settings: write one 'name: value' a line")
    settings: dict[str, Any] = {}
    for key, value in content.items():
        try:
            setting = setting_named(key)
            if setting.name in settings:
                raise UserError(f"setting {key!r} is given twice")
            settings[setting.name] = setting.converted(value)
        except UserError as error:
            raise UserError(f"configuration file {path}: {error}") from None
    return settings
