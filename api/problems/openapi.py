"""Problems in the OpenAPI document: an example of each type, by status."""

from typing import Any

from api.problems import catalog
from api.problems.documents import MEDIA_TYPE, Problem
from momalisa.errors import MomalisaError


def problem_responses(*errors: type[MomalisaError]) -> dict[int | str, dict[str, Any]]:
    """Return the responses of an operation for these errors: an example of each problem type, by status."""
    by_status: dict[int | str, list[catalog.ProblemType]] = {}
    for error in errors:
        kind = catalog.of(error)
        by_status.setdefault(kind.status, []).append(kind)
    return {
        status: {
            "description": "; ".join(kind.title for kind in kinds) + ".",
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {catalog.slug(kind): {"value": _example(kind)} for kind in kinds},
                }
            },
        }
        for status, kinds in by_status.items()
    }


def add_problems(operation: dict[str, Any], *errors: type[MomalisaError]) -> None:
    """Add problems to an operation of the OpenAPI document, merged with those of the same status."""
    for status, described in problem_responses(*errors).items():
        known = operation["responses"].setdefault(str(status), described)
        if known is not described:
            content = known["content"][MEDIA_TYPE]
            content["examples"] = {**content["examples"], **described["content"][MEDIA_TYPE]["examples"]}
            known["description"] = f"{known['description'].removesuffix('.')}; {described['description']}"


def _example(kind: catalog.ProblemType) -> dict[str, Any]:
    problem = Problem(type=kind.type, title=kind.title, status=kind.status, detail=kind.meaning)
    return problem.model_dump(mode="json", exclude_defaults=True)
