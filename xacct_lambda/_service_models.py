"""Service models: the services of boto3, and a loader that creates a first client in a third of the time.

If this library creates boto3's default session, that session has this loader.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
from pathlib import Path
from typing import Any, Final

import boto3
import botocore.session
from botocore.exceptions import DataNotFoundError, UnknownServiceError
from botocore.loaders import JSONFileLoader, Loader, create_loader, instance_cache

_UNIVERSAL_MODELS: Final = ("service-2", "endpoint-rule-set-1")


def setup_default_session() -> None:
    """Create boto3's default session, with a loader that finds and reads the same service models in less time."""
    session = botocore.session.get_session()
    search_paths = create_loader(session.get_config_variable("data_path")).search_paths
    session.register_component(
        "data_loader",
        _Loader(extra_search_paths=search_paths, include_default_search_paths=False, file_loader=_FileLoader()),
    )
    boto3.setup_default_session(botocore_session=session)


@functools.cache
def default_loader() -> Loader:
    """Return a loader like a session's. It needs no session, because importing a handler must not need a profile."""
    loader = create_loader(os.environ.get("AWS_DATA_PATH"))
    loader.search_paths.append(str(Path(boto3.__file__).parent / "data"))
    return loader


class _Loader(Loader):
    """botocore's loader, which finds the services of botocore's own folder without opening all of its 400 folders.

    Listing the folder names is enough there. Only the requested service's folder is opened. Any other folder, such as
    one of AWS_DATA_PATH, may contain other things than services, and is searched as botocore searches it.
    """

    @instance_cache  # type: ignore[untyped-decorator, unused-ignore] # botocore's own
    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        try:
            self.list_api_versions(service_name, type_name)
        except DataNotFoundError as error:
            # botocore catches this error for optional models, such as endpoint rules.
            known = ", ".join(super().list_available_services(type_name))
            raise UnknownServiceError(service_name=service_name, known_service_names=known) from error
        return super().load_service_model(service_name, type_name, api_version)

    @instance_cache  # type: ignore[untyped-decorator, unused-ignore] # botocore's own
    def list_available_services(self, type_name: str) -> list[str]:
        if type_name not in _UNIVERSAL_MODELS:
            return super().list_available_services(type_name)
        others = [path for path in self.search_paths if path != self.BUILTIN_DATA_PATH]
        services = Loader(extra_search_paths=others, include_default_search_paths=False).list_available_services(
            type_name
        )
        folders = os.scandir(self.BUILTIN_DATA_PATH)
        services += [entry.name for entry in folders if entry.is_dir() and not entry.name.startswith(("_", "."))]
        return sorted(set(services))


class _FileLoader(JSONFileLoader):
    """botocore's reader of JSON files, but with plain dicts. OrderedDicts take three times as long."""

    def load_file(self, file_path: str) -> Any:
        for suffix, decompress in ((".json", bytes), (".json.gz", gzip.decompress)):
            path = file_path + suffix
            if os.path.isfile(path):  # noqa: PTH113 - Path.is_file() raises if a folder may not be read
                return json.loads(decompress(Path(path).read_bytes()))
        return None
