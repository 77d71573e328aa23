"""Great Expectations' suites, results and data docs in a folder of this machine or of a remote store."""

from __future__ import annotations

from typing import Any

from great_expectations.data_context.store.tuple_store_backend import TupleStoreBackend
from great_expectations.exceptions import InvalidKeyError

from recsys_tasks.storage.folder import Folder


class FolderStoreBackend(TupleStoreBackend):  # type: ignore[misc]
    """Keeps each value in a file of a folder; Great Expectations loads the class by its name in `context.py`.

    Its own backends write files that a killed process leaves incomplete, and know three remote stores, each through
    another package.
    """

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(**options)
        self._folder = Folder(address)
        self._config = {"module_name": __name__, "class_name": type(self).__name__, "address": address, **options}
        if not self._suppress_store_backend_id:
            _ = self.store_backend_id  # writes it, as all backends do

    def _get(self, key: Any) -> str:
        name = self._convert_key_to_filepath(key)
        try:
            return self._folder.read(name).decode().rstrip("\n")
        except FileNotFoundError as error:
            raise InvalidKeyError(f"{self._folder} has no file {name}") from error

    def _get_all(self) -> list[str]:
        return [self._get(key) for key in self.list_keys() if key != self.STORE_BACKEND_ID_KEY]

    def _set(self, key: Any, value: str | bytes, **_: Any) -> str:
        name: str = self._convert_key_to_filepath(key if isinstance(key, tuple) else key.to_tuple())
        self._folder.write(name, value.encode() if isinstance(value, str) else value)
        return name

    def _move(self, source_key: Any, dest_key: Any, **_: Any) -> Any:
        self._set(dest_key, self._get(source_key))
        self.remove_key(source_key)
        return dest_key

    def list_keys(self, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        """Returns the keys of all values, or of those whose file is below a prefix."""
        start = "".join(f"{part}/" for part in prefix)
        names = [name for name in self._folder.names(recursive=True) if name.startswith(start)]
        kept = (
            name
            for name in names
            if not self._is_missing_prefix_or_suffix(self.filepath_prefix, self.filepath_suffix, name)
        )
        keys = (self._convert_filepath_to_key(name) for name in kept)
        return [key for key in keys if key and not self.is_ignored_key(key)]

    def remove_key(self, key: Any) -> bool:
        """Deletes a value; returns whether it existed."""
        name = self._convert_key_to_filepath(key if isinstance(key, tuple) else key.to_tuple())
        existed = self._folder.exists(name)
        self._folder.remove(name)
        return existed

    def get_url_for_key(self, key: Any, protocol: str | None = None) -> str:
        """Returns the URL of a value's file."""
        path = self._url_path_escape_special_characters(path=self._convert_key_to_filepath(key))
        address = f"{self._folder.address}/{path}"
        return address if self._folder.local_path is None else f"{protocol or 'file:'}//{address}"

    def _has_key(self, key: Any) -> bool:
        return self._folder.exists(self._convert_key_to_filepath(key))
