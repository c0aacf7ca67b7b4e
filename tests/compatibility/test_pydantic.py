"""pydantic: models and settings that have a session as a field."""

from __future__ import annotations

import boto3
from pydantic import BaseModel, ConfigDict

from xacct_lambda import assumed_session

from .conftest import READER


class Settings(BaseModel):
    """What a program passes around."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    session: boto3.Session


def test_copies():
    """A deep copy of a model has the same session, and the model's dictionary too."""
    session = assumed_session(READER)
    settings = Settings(session=session)

    assert settings.model_copy(deep=True).session is session
    assert settings.model_dump() == {"session": session}
