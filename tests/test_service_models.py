"""boto3's default session as the library makes it: the same services and models, found and read in less time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.session import Session
from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader

from xacct_lambda import assumed_session

ROLE = "arn:aws:iam::222222222222:role/Reader"


@pytest.fixture
def loader() -> Loader:
    """The data loader of the default session that the library has made."""
    assumed_session(ROLE)
    assert boto3.DEFAULT_SESSION is not None
    return boto3.DEFAULT_SESSION._session.get_component("data_loader")


@pytest.mark.parametrize("kind", ["service-2", "endpoint-rule-set-1", "paginators-1", "waiters-2", "resources-1"])
def test_same_services(loader: Loader, kind: str) -> None:
    """The default session knows the services that a session of boto3's own knows, for each kind of model."""
    own = Session()._session.get_component("data_loader")

    assert loader.list_available_services(kind) == own.list_available_services(kind)


@pytest.mark.parametrize("service", ["iam", "s3", "dynamodb"])
@pytest.mark.parametrize("kind", ["service-2", "endpoint-rule-set-1", "paginators-1", "waiters-2"])
def test_same_models(loader: Loader, service: str, kind: str) -> None:
    """Models are botocore's, in botocore's order, with the parameters that the SDK adds to some."""
    assert json.dumps(loader.load_service_model(service, kind)) == json.dumps(
        Loader().load_service_model(service, kind)
    )


def test_models_are_plain_dicts(loader: Loader) -> None:
    """Models are read into plain dicts all the way down, in a third of the time that botocore's OrderedDicts take."""
    model = loader.load_service_model("iam", "service-2")

    assert {type(value) for value in (model, model["operations"], model["shapes"])} == {dict}


def test_the_same_folders_are_searched(loader: Loader) -> None:
    """The default session looks for models where a session of boto3's own does: each folder once, in the same order."""
    assert loader.search_paths == Session()._session.get_component("data_loader").search_paths


def test_unknown_services_are_refused_as_by_botocore(loader: Loader) -> None:
    """A service that does not exist is botocore's error, with the names that do exist."""
    with pytest.raises(UnknownServiceError, match="dynamodb"):
        loader.load_service_model("no-such-service", "service-2")


def test_own_models_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies in AWS_DATA_PATH is a service like botocore's own, and comes before it."""
    folder = tmp_path / "private" / "2026-01-01"
    folder.mkdir(parents=True)
    (folder / "service-2.json").write_text('{"metadata": {}}')
    monkeypatch.setenv("AWS_DATA_PATH", os.pathsep.join([str(tmp_path), str(tmp_path / "missing")]))

    assumed_session(ROLE)
    assert boto3.DEFAULT_SESSION is not None
    assert "private" in boto3.DEFAULT_SESSION.get_available_services()
    assert boto3.DEFAULT_SESSION._session.get_service_data("private") == {"metadata": {}}


def test_own_models_need_no_endpoint_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service in AWS_DATA_PATH that has a model and nothing else is one to make clients of, as in boto3."""
    model = json.loads(json.dumps(Loader().load_service_model("sqs", "service-2")))
    model["metadata"]["endpointPrefix"] = "private"
    for folder in (tmp_path / "private" / "2026-01-01", tmp_path / "__pycache__"):
        folder.mkdir(parents=True)
    (tmp_path / "private" / "2026-01-01" / "service-2.json").write_text(json.dumps(model))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))

    client = assumed_session(ROLE).client("private", region_name="eu-west-1")

    assert client.meta.endpoint_url == "https://private.eu-west-1.amazonaws.com"
    assert boto3.DEFAULT_SESSION is not None
    assert boto3.DEFAULT_SESSION.get_available_services() == sorted([*Session().get_available_services()])


def test_what_is_no_file_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in AWS_DATA_PATH that has the name of a model is passed over, as by botocore."""
    (tmp_path / "endpoints.json").mkdir()
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    assumed_session(ROLE)
    assert boto3.DEFAULT_SESSION is not None

    assert boto3.DEFAULT_SESSION.client("sts", region_name="eu-west-1").meta.region_name == "eu-west-1"


def test_a_folder_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in AWS_DATA_PATH whose files are out of reach is passed over, as by botocore."""
    stat = os.stat

    def refusing(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if Path(str(path)).parent == tmp_path:
            raise PermissionError(path)
        return stat(path, *args, **kwargs)

    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    monkeypatch.setattr(os, "stat", refusing)
    assumed_session(ROLE)
    assert boto3.DEFAULT_SESSION is not None

    assert boto3.DEFAULT_SESSION.client("sts", region_name="eu-west-1").meta.region_name == "eu-west-1"


def test_a_first_client_does_not_look_into_every_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that calls STS is created with few folders listed, where botocore lists 800."""
    listed: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    assumed_session(ROLE)
    assert boto3.DEFAULT_SESSION is not None

    boto3.DEFAULT_SESSION.client("sts", region_name="eu-west-1")

    assert len(listed) < 40


def test_a_default_session_that_is_there_is_left_alone() -> None:
    """A default session that the user has made keeps the loader that boto3 gave it."""
    boto3.setup_default_session()
    assumed_session(ROLE)

    assert boto3.DEFAULT_SESSION is not None
    assert type(boto3.DEFAULT_SESSION._session.get_component("data_loader")) is Loader
