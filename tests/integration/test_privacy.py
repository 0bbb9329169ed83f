"""Private walks stay private: in the API, on the pages, and in the bucket."""

from uuid import UUID

from fastapi.testclient import TestClient
from sqlalchemy import event, update

from momalisa.db.models import Walk
from momalisa.db.session import engine, transaction
from momalisa.domain.states import WalkStatus
from momalisa.storage import bucket
from momalisa.walks import moderation
from tests.clients import new_client
from tests.integration.conftest import Finished
from tests.walk_files import SMALL, look, statuses, urls

GUESSES = ("", "frames/0.000000000.png", "frames/1.000000000.png", "poster.webp", "walk.gif", "walk.zip")


def test_neither_its_id_nor_a_public_remix_opens_a_private_walk(api: TestClient, finished: Finished) -> None:
    private = finished(public=False)
    remix = finished(from_walk=private["id"], prompts=["a rose", "a boat"], public=True)
    assert (look(api, remix["id"])["from_walk"], statuses(urls(private))) == (private["id"], {200})

    stranger = new_client(api)
    seen = look(stranger, remix["id"])
    assert seen["from_walk"] is None
    assert [walk["from_walk"] for walk in stranger.get("/v1/walks").json()["walks"]] == [None]
    for path in (
        f"/v1/walks/{remix['id']}",
        "/v1/walks",
        f"/walks/{remix['id']}",
        "/gallery",
        f"/?from={remix['id']}",
    ):
        assert private["id"] not in stranger.get(path).text
    for path in (f"/v1/walks/{private['id']}", f"/v1/walks/{private['id']}/frames/0", f"/walks/{private['id']}"):
        assert stranger.get(path).status_code == 404
    files = f"{bucket.base_url()}/momalisa"
    folder = f"{files}/walks/{private['id']}"
    assert statuses([f"{folder}/{guess}" for guess in GUESSES]) == {404}
    # Nothing in the remix reveals it either.
    assert statuses([url.replace(remix["id"], private["id"]) for url in urls(seen)]) == {404}


def test_from_walk_is_shown_to_those_who_may_see_that_walk(api: TestClient, finished: Finished) -> None:
    source = finished(public=True)
    remix = finished(from_walk=source["id"])
    stranger = new_client(api)

    def shown_to(client: TestClient) -> list[str | None]:
        listed = client.get("/v1/walks").json()["walks"]
        return [
            look(client, remix["id"])["from_walk"],
            *(it["from_walk"] for it in listed if it["id"] == remix["id"]),
        ]

    assert shown_to(stranger) == shown_to(api) == [source["id"]] * 2
    with transaction() as session:
        moderation.hide(session, UUID(source["id"]))
    assert (shown_to(stranger), shown_to(api)) == ([None] * 2, [source["id"]] * 2)
    assert api.delete(f"/v1/walks/{source['id']}").status_code == 204
    assert shown_to(stranger) == shown_to(api) == [None] * 2


def test_lineage_shows_only_what_a_viewer_may_see(api: TestClient, finished: Finished) -> None:
    source = finished(public=True)
    shown, private = finished(from_walk=source["id"], public=True), finished(from_walk=source["id"], public=False)
    stranger = new_client(api)

    def children(client: TestClient, **more: int) -> list[str]:
        answer = client.get("/v1/walks", params={"from_walk": source["id"], **more}).json()
        page = client.get(f"/walks/{shown['id']}").text
        assert (f'href="/walks/{source["id"]}"' in page) == bool(answer["walks"]) or more
        return [walk["id"] for walk in answer["walks"]]

    assert children(stranger) == [shown["id"]]
    assert children(api) == [private["id"], shown["id"]]
    assert children(api, limit=1) == [private["id"]]
    assert children(stranger, mine=True) == []
    page = stranger.get(f"/walks/{source['id']}").text
    assert (f'href="/walks/{shown["id"]}"' in page, private["id"] in page) == (True, False)
    assert api.patch(f"/v1/walks/{source['id']}", json={"public": False}).status_code == 200
    assert children(stranger) == []  # nothing reveals what a walk started from, not even to those who know its id
    assert len(children(api)) == 2
    with transaction() as session:
        session.execute(update(Walk).where(Walk.id == source["id"]).values(status=WalkStatus.EXPIRED))
    assert look(api, shown["id"])["from_walk"] is None
    assert f'href="/walks/{source["id"]}"' not in api.get(f"/walks/{shown['id']}").text


def test_a_list_queries_all_sources_at_once(api: TestClient) -> None:
    def statements(walks: int) -> int:
        source = api.post("/v1/walks", json={**SMALL, "public": True}).json()["id"]
        for _ in range(walks):
            api.post("/v1/walks", json={**SMALL, "from_walk": source, "public": True})
        counted: list[str] = []
        event.listen(engine(), "before_cursor_execute", count := lambda *args: counted.append(args[2]))
        try:
            assert len(api.get("/v1/walks").json()["walks"]) > walks
        finally:
            event.remove(engine(), "before_cursor_execute", count)
        return len(counted)

    assert statements(1) == statements(5)


def test_two_walks_share_no_secret(api: TestClient, finished: Finished) -> None:
    walks = [finished(), finished()]
    folders = {url.partition("/walks/")[2].split("/")[1] for walk in walks for url in urls(walk)}
    assert len(folders) == 2
    assert {len(secret) for secret in folders} == {22}
