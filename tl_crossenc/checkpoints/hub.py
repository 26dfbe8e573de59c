"""Files of a model on the Hugging Face hub: downloaded once, then read from the local cache, also without a network."""

from __future__ import annotations

import re
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubModel:
    """One revision of a hub model. Every file is taken from the commit that the first one came from.

    Args:
        name: the model's name on the hub.
        revision: a branch, tag or commit; the default branch by default.

    Attributes:
        commit: the commit, once a file has been fetched.
        unreachable: why the hub cannot be asked, once it could not; from then on only the cache is read.
    """

    def __init__(self, name: str, revision: str | None = None):
        self.name = name
        self.revision = revision
        self.commit: str | None = None
        self.unreachable: Exception | None = None

    def fetch(self, file: str) -> Path | None:
        """The local copy of a file; None where the model has none, or where the hub is out of reach and the cache has none.

        Raises:
            ValueError: there is no such model or revision, or the download fails.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if self.commit is not None:  # a commit never changes: what the cache knows of it, present or absent, holds
            cached = try_to_load_from_cache(self.name, file, revision=self.commit)
            if cached is not None:
                return Path(cached) if isinstance(cached, str) else None
        if self.unreachable is not None:
            return None
        try:
            path = Path(hf_hub_download(self.name, file, revision=self.commit or self.revision))
        except LocalEntryNotFoundError as error:
            self.unreachable = error
            return None
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            raise ValueError(
                f"expected 'demo', a model folder or a model on the Hugging Face hub, got {self.name!r}"
                f"{f' at revision {self.revision!r}' if self.revision else ''}, which is none of them: check the name "
                "(a private model needs a token in HF_TOKEN)"
            ) from None
        except EntryNotFoundError:
            return None
        except Exception as error:  # which HTTP library's errors come through depends on the hub library's version
            raise ValueError(
                f"expected {self.name!r} from the Hugging Face hub, but its {file} cannot be downloaded "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): try again, or pass a local folder"
            ) from error
        if self.commit is None and _COMMIT.fullmatch(path.parent.name):
            self.commit = path.parent.name
        return path

    def missing(self, what: str) -> ValueError:
        """The error to raise where the model lacks `what`, or where the hub cannot be asked for it."""
        if self.unreachable is None:
            return ValueError(f"expected {what} in the hub model {self.name!r}; it has none, so it is no model to load")
        return ValueError(
            f"expected {self.name!r} from the Hugging Face hub, but the hub cannot be reached and {what} is not in the local "
            f"cache ({type(self.unreachable).__name__}): connect once, or pass a local folder"
        )
