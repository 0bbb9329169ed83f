"""Types of columns: pydantic models as JSON, and enums as text."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Dialect, Enum, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB


class ModelType(TypeDecorator[Any]):
    """A pydantic model, stored as JSON."""

    impl = JSONB
    cache_ok = True

    def __init__(self, model: type[BaseModel]) -> None:
        """Store instances of a model; None is NULL."""
        super().__init__(none_as_null=True)
        self.model = model

    def process_bind_param(self, value: BaseModel | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """Turn an instance into JSON."""
        return None if value is None else value.model_dump(mode="json")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """Turn JSON into an instance."""
        return None if value is None else self.model.model_validate(value)


def enum(kind: type[StrEnum]) -> Enum:
    """Return the type of a column that holds an enum: text with a CHECK constraint."""
    return Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        length=16,
        name=kind.__name__.lower(),
        values_callable=lambda members: [member.value for member in members],
    )
