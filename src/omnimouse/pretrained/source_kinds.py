"""What a name that a user gives stands for: a model, a session adapter, a LoRA, or weights as they were published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from omnimouse.hub.sources import HubOptions, Source, find
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.pretrained.published.architecture import config_from_tensors
from omnimouse.pretrained.published.checkpoint_files import FIRST_RANK, rank_files, read_rank
from omnimouse.pretrained.published.conversion import cached_copy, converted_folder, converted_repo
from omnimouse.pretrained.session_files import ADAPTER_CONFIG, AdapterConfig, is_adapter, read_index
from omnimouse.support.files import read_mapping

Kind = Literal["model", "session adapter", "LoRA", "checkpoint", "something else"]


def source_kind(source: Source) -> Kind:
    """What lies at a source; of a repo, the small files tell. A repo without any may be a published checkpoint."""
    if is_adapter(source.folder):
        return "session adapter"
    if (source.folder / "config.json").is_file():
        return "model"
    if (source.folder / ADAPTER_CONFIG).is_file():
        return "LoRA"
    return "checkpoint" if source.options is not None or rank_files(source.folder) else "something else"


def locate(name: str | Path, options: HubOptions | None = None) -> Source:
    """Finds a model or adapter by name; of a repo, only the small files are fetched.

    Weights in the form in which they were published are converted on first use, and the converted copy is located.
    Arguments and errors are those of `hub.sources.find`.
    """
    options = options or HubOptions()
    source = find(name, options)
    if source_kind(source) != "checkpoint":
        return source
    if source.options is not None:
        return Source(source.name, converted_repo(source), source.commit)
    return Source(source.name, converted_folder(source.folder, options.cache_dir))


def load_architecture(name: str | Path, **kwargs: Any) -> OmniMouseConfig:
    """Reads the configuration of a model by name. That of published weights is read off them; nothing is converted.

    Args:
        name: What `OmniMouseModel.from_pretrained` takes; of a published checkpoint, the first rank file is fetched.
        **kwargs: Options of the Hub, and fields that replace what is stored.

    Raises:
        ValueError: Nothing of that name, or no model.
        OSError: The Hub does not give it.
    """
    options = HubOptions.take(kwargs)
    path = _first_rank(find(name, options))
    if path is None:
        return OmniMouseConfig.from_pretrained(locate(name, options).folder, **kwargs)
    return OmniMouseConfig.from_dict(config_from_tensors(read_rank(path)[0]).to_dict(), **kwargs)


def session_keys(name_or_path: str | Path, **hub_options: Any) -> list[str]:
    """Lists the sessions that come with a model, sorted, without loading any.

    Args:
        name_or_path: What `OmniMouseModel.from_pretrained` takes. Of a published checkpoint on the Hub, the first rank
            file is fetched, which lists all sessions.
        **hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`.

    Raises:
        ValueError: Nothing of that name, or no model.
        OSError: The Hub does not give it.
    """
    options = HubOptions.only(hub_options)
    path = _first_rank(find(name_or_path, options))
    if path is not None:
        return sorted(read_rank(path)[1])
    source = locate(name_or_path, options)
    if is_adapter(source.folder):
        return [AdapterConfig.read(source.folder).session.key]
    check_model_folder(source)
    return sorted(read_index(source.folder))


def _first_rank(source: Source) -> Path | None:
    """The first rank file of a published repo that has no converted copy yet, fetched; `None` of anything else."""
    if source.options is None or source_kind(source) != "checkpoint" or cached_copy(source) is not None:
        return None
    source.fetch([FIRST_RANK])
    path = source.folder / FIRST_RANK
    return path if path.is_file() else None


def looks_like_recording(folder: Path) -> bool:
    """Whether a folder has devices of a recording, be it sound or not; its config.json is none of a model."""
    return any((folder / device).is_dir() for device in ("responses", "screen", "data/videos", "data/images"))


def check_model_folder(source: Source) -> None:
    """Raises `ValueError` where a source holds no model, saying what it holds."""
    if looks_like_recording(source.folder):
        raise ValueError(f"{source.name} is a recording and no model. Recordings are opened with open_recording.")
    if not (source.folder / "config.json").is_file():
        if is_adapter(source.folder / "adapter"):
            raise ValueError(f"{source.name} is no model folder; the session adapter is {source.name}/adapter.")
        found = sorted(path.name for path in source.folder.iterdir())[:8] if source.folder.is_dir() else []
        raise ValueError(
            f"{source.name} has no config.json, so it is no model folder (found: {', '.join(found) or 'nothing'}). "
            "Models are written by model.save_pretrained(folder)."
        )
    read_mapping(source.folder / "config.json", "the architecture of a model")
