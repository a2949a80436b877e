"""What a recording can be turned into: files of another form, and a repo on the Hub."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import CommitInfo


class WithExports:
    """Writing and pushing a recording in the `datasets` form."""

    def to_dataset(self, folder: str | os.PathLike[str]) -> Dataset:
        """Write the recording into a folder in a form of the library `datasets`, for mapping and sharing.

        It appears as ``<folder>/<session_key>/``, whole or not at all, beside others that lie there, and is written in
        pieces of bounded size. `open_recording` opens it; windows cut from it are those of this recording, bit for bit,
        under every profile. Findings of opening are not carried over.

        Args:
            folder: where recordings in this form are collected; it may exist or not.

        Returns:
            The rows of the responses as a memory-mapped `datasets.Dataset`: one per sample, with trial, tier, video
            frame and behaviour beside. `omnimouse.recordings.formats.dataset_form` describes all tables.

        Raises:
            ValueError: the session lies there already, its key cannot name a folder, stimuli differ in size or are
                incomplete, or a type that Arrow lacks.
        """
        from omnimouse.recordings.data.recording_data import Recording
        from omnimouse.recordings.making.dataset_writer import to_dataset

        assert isinstance(self, Recording)
        return to_dataset(self, folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Push the recording to a dataset repo on the Hub, beside those that the repo holds, in one commit.

        A recording that is not in the `datasets` form is first written in it, in a temporary folder. Others open it by
        ``open_recording(repo_id, session=session_key)``, or with `datasets.load_dataset(repo_id, session_key)`.

        Args:
            repo_id: The repo, `"user/name"` or `"name"`; created if it does not exist.
            **options: `private`, `token`, `revision` (a branch, made if it does not exist), `create_pr`,
                `commit_message`, `commit_description`.

        Returns:
            The commit; as a string, its address.

        Raises:
            ValueError: As `to_dataset` says; or an unknown option.
            OSError: The Hub refuses, cannot be reached, or the repo was changed meanwhile.
        """
        from omnimouse.recordings.data.recording_data import Recording
        from omnimouse.recordings.making.dataset_hub import push_recording

        assert isinstance(self, Recording)
        return push_recording(self, repo_id, options)
