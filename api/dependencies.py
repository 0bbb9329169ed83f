"""What routes ask of a request: who sent it, which walk it names, and how visitors reach this site."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path

from api import access, site
from api.docs import examples

Caller = Annotated[access.Caller, Depends(access.caller)]
Poller = Annotated[access.Caller, Depends(access.poller)]
Submitter = Annotated[access.Owner, Depends(access.submitter)]
Base = Annotated[str, Depends(site.url)]
Place = Annotated[str, Depends(site.place)]

WalkId = Annotated[UUID, Path(description="Id of the walk.", examples=[examples.WALK_ID])]
