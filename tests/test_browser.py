"""The desk and the client's window in a real Chromium, on a real web process and a real worker."""

from __future__ import annotations

import functools
import http.server
import json
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from embedded.cluster import Cluster
from sql.install import prepare
from tests.support.browser import Site
from tests.support.db import Connection, enqueue
from tests.support.processes import Start, eventually

pytestmark = pytest.mark.system

NARROW = {"width": 390, "height": 844}
# A message as the window sends it, from elsewhere; returns once it has been dealt with.
FORGE = """new Promise((done) => {
  addEventListener("message", () => setTimeout(done), { once: true });
  postMessage({ shoptalk: "unread", count: 9 }, "*");
})"""

expect.set_options(timeout=15_000)


def live(page: Page) -> Page:
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    return page


def say(page: Page, text: str) -> None:
    page.locator("#composer").fill(text)
    page.keyboard.press("Enter")


def row(page: Page, name: str) -> Any:
    return page.locator(".row", has_text=name)


def close_store(db: Connection, store: int = 2) -> None:
    """Moves the store's hours two hours away from now."""
    db.execute(
        "update store_hours h set"
        " opens = date_trunc('minute', (now() + interval '2 h') at time zone s.timezone)::time,"
        " closes = date_trunc('minute', (now() + interval '3 h') at time zone s.timezone)::time"
        " from stores s where s.store_id = h.store_id and s.store_id = %s",
        [store],
    )


def open_store(db: Connection, store: int = 2) -> None:
    """Opens the store round the clock."""
    db.execute("update store_hours set opens = '00:00', closes = '00:00' where store_id = %s", [store])


# Two people ------------------------------------------------------------------------------------------


def test_desk_and_window_see_each_others_chats_without_reload(site: Site, shop: Connection) -> None:
    enqueue(shop, 7, "Is my order on its way?")
    desk = live(site.open("/desk?operator_id=1"))
    expect(row(desk, "Ann").locator(".count")).to_have_text("1 unread")
    expect(desk).to_have_title("(1) Desk · Shoptalk")
    window = live(site.open("/chat/7"))
    expect(window.locator("#presence")).to_have_text("Online.")

    row(desk, "Ann").click()
    expect(desk.locator("#presence")).to_contain_text("Online")
    expect(desk.locator(".chats .theirs .text")).to_have_text("Is my order on its way?")
    expect(row(desk, "Ann").locator(".count")).to_have_count(0)
    expect(desk).to_have_title("Desk · Shoptalk")
    expect(window.locator(".mine .standing").last).to_have_text("Read")

    window.locator("#composer").press_sequentially("Hel")
    expect(desk.locator(".typing").last).to_have_text("Ann is typing…")
    say(desk, "It is, {{ username }}.")
    expect(window.locator(".chats .theirs .text")).to_have_text("It is, Ann.")
    expect(desk.locator(".mine .standing").last).to_have_text("Read")
    say(window, "Thank you!")
    for page in (desk, window):
        expect(page.locator(".chats .text")).to_have_text(["Is my order on its way?", "It is, Ann.", "Thank you!"])


def test_a_conversation_begins_in_the_window_and_comes_into_the_stores_list(site: Site, shop: Connection) -> None:
    desk = live(site.open("/desk?store_id=1"))
    expect(desk.locator("#empty")).to_have_text("No conversations yet.")
    window = live(site.open("/chat/9?client_id=2&operator_id=1"))
    say(window, "Anybody there?")
    expect(row(desk, "Ben").locator(".last")).to_have_text("Anybody there?")
    expect(window.locator("#name")).to_have_text("Olga")
    row(desk, "Ben").click()
    say(desk, "Yes.")
    expect(window.locator(".theirs .text")).to_have_text("Yes.")


def test_a_held_chat_is_shown_with_its_time_and_can_be_edited_and_cancelled(site: Site, shop: Connection) -> None:
    shop.execute("update stores set timezone = 'Asia/Tokyo' where store_id = 2")
    close_store(shop)
    desk = live(site.open("/desk?operator_id=2"))
    window = live(site.open("/chat/20?client_id=1&operator_id=2"))
    say(window, "It is late, I know")
    held = window.locator(".chat.held .standing")
    opens = shop.execute("select to_char(min(opens), 'HH24:MI') from store_hours where store_id = 2").fetchone()
    assert opens is not None
    expect(held).to_contain_text(f"at {opens[0]} (Tokyo time); your message will be sent then.")
    row(desk, "Ann").click()
    expect(desk.locator(".chat.held .standing")).to_contain_text(f"at {opens[0]} (Tokyo time)")
    expect(desk.locator("#store")).to_contain_text("Closed, opens")

    held.get_by_role("button", name="Edit").click()
    expect(window.locator("#composer")).to_have_value("It is late, I know")
    say(window, "It is late, I am sorry")
    for page in (window, desk):
        expect(page.locator(".chat.held .text")).to_have_text("It is late, I am sorry")
    expect(window.locator("#composer")).to_have_value("")

    held.get_by_role("button", name="Cancel").click()
    expect(window.locator(".chat.cancelled .standing")).to_have_text("Cancelled, not sent")
    expect(desk.locator(".chat.cancelled .standing")).to_have_text("Cancelled before it was sent")
    # What the operator writes meanwhile is nothing that the client sees before the store opens.
    say(desk, "Tomorrow")
    expect(desk.locator(".mine.held .text")).to_have_text("Tomorrow")
    expect(window.locator(".chats .text")).to_have_text(["It is late, I am sorry"])


def test_text_is_text(site: Site, shop: Connection) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>\n\nevent: chat\ndata: forged"
    enqueue(shop, 7, hostile)
    desk = live(site.open("/desk?operator_id=1#7"))
    window = live(site.open("/chat/7"))
    for page in (desk, window):
        expect(page.locator(".chats .text")).to_have_text(hostile)
    expect(row(desk, "Ann").locator(".last")).to_contain_text("<script>alert(1)</script>")
    say(window, hostile)
    expect(desk.locator(".chats .text")).to_have_text([hostile, hostile])
    assert desk.locator(".chats img, .list img").count() == 0


def test_what_is_too_long_is_not_sent_and_a_draft_is_kept(site: Site, shop: Connection) -> None:
    enqueue(shop, 7, "Hi")
    window = live(site.open("/chat/7"))
    window.locator("#composer").fill("😀" * 300)
    expect(window.locator("#composer-count")).to_have_text("1 too many")
    window.keyboard.press("Enter")
    expect(window.get_by_role("button", name="Send")).to_be_disabled()
    window.locator("#composer").fill("😀" * 299)
    window.reload()
    live(window)
    expect(window.locator("#composer")).to_have_value("😀" * 299)
    window.locator("#composer").focus()
    window.keyboard.press("Enter")
    expect(window.locator(".mine .text").last).to_have_text("😀" * 299)


# The cut ---------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(public_folder: Path) -> Iterator[Cluster]:
    """A server of the test's own, to be stopped, with Ann, Olga and a store that is always open."""
    with Cluster(public_folder / "data") as cluster:
        prepare(cluster.url)
        with psycopg.connect(cluster.url) as db:
            db.execute("select add_store(1, 'UTC', '00:00', '00:00')")
            db.execute("insert into clients values (1, 'Ann', 'Oslo')")
            db.execute("insert into operators values (1, 'Olga', 'day', 1)")
        yield cluster


def post(url: str, text: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        enqueue(db, 7, text)


def test_nothing_is_missing_or_twice_after_web_was_killed_and_postgres_restarted(
    browser: Browser, start: Start, cluster: Cluster
) -> None:
    post(cluster.url, "one")
    site = Site(browser, start, cluster.url)
    desk, window = live(site.open("/desk?operator_id=1#7")), live(site.open("/chat/7"))
    expect(desk.locator(".text")).to_have_text(["one"])

    site.web.process.end(signal.SIGKILL)
    for page in (desk, window):
        expect(page.locator("#link")).to_contain_text("Reconnecting since")
    post(cluster.url, "two")
    say(window, "three")
    expect(window.locator(".unsent .standing")).to_contain_text("Not sent yet")
    site.web.run()
    for page in (live(desk), live(window)):
        expect(page.locator(".text")).to_have_text(["one", "two", "three"])

    port = int(cluster.url.rpartition(":")[2].partition("/")[0])
    cluster.stop()
    say(desk, "four")
    expect(desk.locator(".unsent .standing")).to_contain_text("Not sent yet")
    cluster.start(port=port)
    for page in (live(desk), live(window)):
        expect(page.locator(".text")).to_have_text(["one", "two", "three", "four"])
    post(cluster.url, "five")
    for page in (desk, window):
        expect(page.locator(".text")).to_have_text(["one", "two", "three", "four", "five"])
    site.close()


def test_a_chat_whose_answer_was_lost_is_not_sent_twice(site: Site, shop: Connection) -> None:
    enqueue(shop, 7, "one")
    window = live(site.open("/chat/7"))
    lost = []

    def lose_the_answer(route: Route) -> None:
        if not lost:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    window.route("**/v1/chats", lose_the_answer)
    say(window, "two")
    say(window, "three")
    expect(window.locator(".mine .text")).to_have_text(["one", "two", "three"])
    expect(window.locator(".unsent")).to_have_count(0)
    assert lost == [201]
    assert shop.execute("select payload from chats order by seq").fetchall() == [("one",), ("two",), ("three",)]


def test_a_chat_that_is_streamed_before_its_post_is_answered_is_shown_once(site: Site, shop: Connection) -> None:
    enqueue(shop, 7, "one")
    window = live(site.open("/chat/7"))
    late = []
    window.route("**/v1/chats", lambda route: late.append((route, route.fetch())))
    say(window, "two")
    expect(window.locator(".mine .text")).to_have_text(["one", "two"])
    expect(window.locator(".unsent")).to_have_count(0)  # which it can have from the stream alone
    route, answer = late.pop()
    with window.expect_response("**/v1/chats"):
        route.fulfill(response=answer)
    window.unroute_all()
    say(window, "three")
    expect(window.locator(".mine .text")).to_have_text(["one", "two", "three"])
    expect(window.locator(".unsent")).to_have_count(0)
    assert shop.execute("select payload from chats order by seq").fetchall() == [("one",), ("two",), ("three",)]


# Hands and eyes --------------------------------------------------------------------------------------


def test_the_desk_can_be_used_with_the_keyboard_alone(site: Site, shop: Connection) -> None:
    enqueue(shop, 7, "first")
    enqueue(shop, 8, "second", client=2)
    desk = live(site.open("/desk?operator_id=1"))
    expect(desk.locator(".row")).to_have_count(2)
    desk.keyboard.press("j")
    expect(desk.locator("#name")).to_have_text("Ben")
    desk.keyboard.press("j")
    expect(desk.locator("#name")).to_have_text("Ann")
    expect(row(desk, "Ann")).to_be_focused()
    expect(desk.locator("#composer")).to_be_visible()
    desk.keyboard.press("r")
    expect(desk.locator("#composer")).to_be_focused()
    desk.keyboard.type("just a reply")
    desk.keyboard.press("Enter")
    expect(desk.locator(".mine .text")).to_have_text("just a reply")
    desk.keyboard.press("Escape")
    expect(row(desk, "Ann")).to_be_focused()
    desk.keyboard.press("/")
    desk.keyboard.type("ben")
    expect(desk.locator(".row")).to_have_count(1)
    desk.keyboard.press("Escape")
    expect(desk.locator(".row")).to_have_count(2)
    desk.keyboard.press("?")
    expect(desk.locator("#help")).to_be_visible()
    desk.keyboard.press("Escape")
    desk.keyboard.press("q")
    expect(desk.locator("#queue h1")).to_be_visible()
    expect(desk.locator(".state.sent .figure")).to_have_text("3")
    desk.keyboard.press("q")
    expect(desk.locator("#list")).to_be_visible()


def test_on_a_phone_list_and_conversation_are_two_views(site: Site, shop: Connection) -> None:
    enqueue(shop, 7, "x" * 299)
    desk = live(site.open("/desk?operator_id=1", viewport=NARROW))
    expect(desk.locator("#head")).to_be_hidden()
    row(desk, "Ann").click()
    expect(desk.locator(".theirs .text")).to_be_visible()
    expect(desk.locator("#list")).to_be_hidden()
    assert desk.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    desk.get_by_role("link", name="Back to the list").click()
    expect(desk.locator("#list")).to_be_visible()
    expect(desk.locator("#head")).to_be_hidden()


def test_axe_finds_nothing_on_any_page_light_or_dark(site: Site, shop: Connection) -> None:
    open_store(shop)
    enqueue(shop, 20, "Where is my order? https://post.example/1", operator=2)
    enqueue(shop, 20, "On its way", operator=2, sender="operator")
    eventually(lambda: len(shop.execute("select 1 from sent_log").fetchall()) == 2)
    close_store(shop)
    enqueue(shop, 20, "At night", operator=2)
    cancelled = enqueue(shop, 20, "Never mind", operator=2).chat_id
    shop.execute("select cancel_chat(%s)", [cancelled])
    for path, ready in {
        "/desk?operator_id=2#20": ".cancelled .text",
        "/desk?operator_id=2#queue": ".queue .figure",
        "/chat/20": ".cancelled .text",
        "/desk": "#number",
        "/desk/hours?store_id=2": ".cells",
    }.items():
        page = site.open(path)
        expect(page.locator(ready).first).to_be_visible()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page).response["violations"]
            assert [(path, scheme, rule["id"], node["html"]) for rule in found for node in rule["nodes"]] == []


# Hours ---------------------------------------------------------------------------------------------


def test_a_shop_owner_changes_the_week_and_sees_before_what_would_move(site: Site, shop: Connection) -> None:
    close_store(shop)
    held = enqueue(shop, 20, "At night", operator=2)
    desk = live(site.open("/desk?store_id=2"))
    desk.get_by_role("link", name="Hours").click()
    expect(desk.get_by_role("heading", name="Hours of store 2")).to_be_visible()
    expect(desk.locator("#preview")).to_have_text("No unsaved changes.")

    # Written by the keyboard, as people write it; and then wrong, which the field says.
    field = desk.get_by_label("Monday from")
    field.fill("930")
    field.press("Tab")
    expect(field).to_have_value("09:30")
    desk.get_by_label("Monday to").fill("25")
    desk.get_by_label("Monday to").press("Tab")
    expect(desk.locator("[data-problem='weekly.mon']")).to_be_visible()
    expect(desk.get_by_role("button", name="Save hours")).to_be_disabled()
    desk.get_by_role("button", name="Discard changes").click()
    expect(desk.locator("#preview")).to_have_text("No unsaved changes.")

    # Open round the clock, by dragging over each day: what is held would go now.
    for cells in desk.locator(".cells").all():
        box = cells.bounding_box()
        assert box is not None
        for step in ("down", "up"):
            desk.mouse.move(box["x"] + (2 if step == "down" else box["width"] - 2), box["y"] + box["height"] / 2)
            getattr(desk.mouse, step)()
    expect(desk.get_by_label("Sunday to")).to_have_value("24:00")
    expect(desk.locator("#preview")).to_contain_text("1 held chat would be released")
    assert shop.execute("select state from chat_states where chat_id = %s", [held.chat_id]).fetchone() == ("held",)

    desk.get_by_role("button", name="Add a day").click()
    desk.get_by_label("How often").select_option("Every year")
    desk.get_by_label("Month and day").fill("12-25")
    desk.get_by_label("Name").fill("Christmas")
    desk.get_by_label("Name").press("Tab")
    desk.get_by_role("button", name="Save hours").click()
    expect(desk.locator("#preview")).to_contain_text("Saved. 1 held chat will be released")
    hours = desk.request.get(site.address("/v1/stores/2/hours")).json()
    assert hours["weekly"]["sun"] == [["00:00", "24:00"]]
    assert hours["exceptions"] == [{"yearly": "12-25", "name": "Christmas", "spans": []}]
    expect(desk.locator("#store")).to_contain_text("Open")
    eventually(lambda: shop.execute("select count(*) from sent_log").fetchone() == (1,))


def test_public_holidays_are_added_closed_and_only_saved_with_the_rest(site: Site, shop: Connection) -> None:
    page = site.open("/desk/hours?store_id=2")
    page.get_by_label("Country").fill("de")
    page.get_by_label("Year").fill("2027")
    page.get_by_role("button", name="Add public holidays").click()
    expect(page.locator("#holidays-said")).to_contain_text("days added as closed.")
    expect(page.locator(".different").first.get_by_text("Closed")).to_be_visible()
    expect(page.locator("#preview")).to_contain_text("Not saved yet.")
    assert shop.execute("select count(*) from store_exceptions").fetchone() == (0,)
    page.get_by_label("Country").fill("XX")
    page.get_by_role("button", name="Add public holidays").click()
    expect(page.locator("#holidays-said")).to_contain_text("country")


# Around the pages ------------------------------------------------------------------------------------


def test_a_key_is_asked_for_once_and_a_wrong_one_again(
    browser: Browser, start: Start, shop: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPTALK_API_KEYS", "sesame")
    site = Site(browser, start, database)
    enqueue(shop, 7, "hi")
    desk = site.open("/desk?operator_id=1#7")
    desk.get_by_label("API key", exact=True).last.fill("wrong")
    desk.keyboard.press("Enter")
    expect(desk.get_by_text("Unknown API key.")).to_be_visible()
    desk.locator("#api-key").fill("sesame")
    desk.keyboard.press("Enter")
    live(desk)
    expect(desk.locator(".theirs .text")).to_have_text("hi")
    desk.reload()
    live(desk)
    assert "sesame" not in desk.url
    site.close()


@pytest.fixture
def guarded(browser: Browser, start: Start, shop: Connection, database: str) -> Iterator[Site]:
    """A site that requires keys, with a conversation. Without limits: renew_token() asks until web has noticed."""
    enqueue(shop, 7, "hi")
    site = Site(browser, start, database, SHOPTALK_API_KEYS="sesame", SHOPTALK_TOKEN_PER_MINUTE="0")
    yield site
    site.close()


def token(site: Site, **of: Any) -> str:
    request = urllib.request.Request(
        site.address("/v1/tokens"),
        json.dumps(of).encode(),
        {"Authorization": "Bearer sesame", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["token"])


def test_a_page_takes_its_token_from_the_fragment_and_sends_it_in_no_address(guarded: Site, shop: Connection) -> None:
    asked: list[str] = []
    for party, path, of in (
        ("client", "/chat/7", {"conversation_id": 7}),
        ("operator", "/desk?operator_id=1", {"operator_id": 1}),
    ):
        page = guarded.open("/static/icon.svg")
        page.on("request", lambda request: asked.append(request.url + str(request.headers.get("referer"))))
        secret = token(guarded, **of)
        place = "&7" if party == "operator" else ""
        page.goto(guarded.address(f"{path}#token={secret}{place}"))
        live(page)
        expect(page.locator(".text").first).to_have_text("hi")
        say(page, f"from the {party}")
        sent = "select count(*) from chats where payload = %s and sender = %s"
        eventually(functools.partial(is_one, shop, sent, [f"from the {party}", party]))
        assert secret not in page.evaluate("location.href + JSON.stringify(history.state)")
        assert secret not in "".join(asked)
        page.reload()
        live(page)
    assert any("/v1/stream" in url for url in asked)


def test_the_bubble_asks_the_shop_for_a_token_and_again_when_it_has_expired(
    guarded: Site, shop: Connection, other_origin: tuple[Path, str]
) -> None:
    folder, address = other_origin
    script = (
        f"<script src='{guarded.address('/embed.js')}' data-conversation=7 data-token-url=/token.json defer></script>"
    )
    (folder / "index.html").write_text(f"<!doctype html><title>A shop</title>{script}<h1>Lamps</h1>")
    (folder / "token.json").write_text(json.dumps({"token": token(guarded, conversation_id=7)}))
    page = guarded.open(address + "/")
    page.get_by_role("button", name=re.compile("Chat with us")).click()
    frame = page.frame_locator("iframe")
    expect(frame.locator(".text").first).to_have_text("hi")
    (folder / "token.json").write_text(json.dumps({"token": token(guarded, conversation_id=7, ttl_seconds=600)}))
    shop.execute("select rotate_token_secret(forget => true)")
    (folder / "token.json").write_text(json.dumps({"token": renew_token(guarded)}))
    frame.locator("#composer").fill("still here")
    frame.locator("#composer").press("Enter")
    eventually(lambda: shop.execute("select count(*) from chats").fetchone() == (2,))
    expect(frame.locator("dialog")).to_have_count(0)


def is_one(db: Connection, statement: str, values: list[str]) -> bool:
    return db.execute(statement, values).fetchone() == (1,)


def renew_token(site: Site) -> str:
    """A token that is valid from now on: web has noticed that older tokens are not."""
    old = token(site, conversation_id=7)

    def is_forgotten() -> bool:
        nonlocal old
        request = urllib.request.Request(
            site.address("/v1/conversations/7"), headers={"Authorization": f"Bearer {old}"}
        )
        try:
            with urllib.request.urlopen(request):
                pass
        except urllib.error.HTTPError as error:
            return error.code == 401
        return False

    eventually(is_forgotten)
    return token(site, conversation_id=7)


@pytest.fixture
def other_origin(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A shop's own site: its folder and its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_one_script_tag_adds_the_bubble_to_a_shops_page(
    site: Site, shop: Connection, other_origin: tuple[Path, str]
) -> None:
    folder, address = other_origin
    script = f"<script src='{site.address('/embed.js')}' data-conversation=7 data-label='Ask us' defer></script>"
    policy = f"default-src 'self'; script-src {site.address('')}; frame-src {site.address('')}"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    (folder / "index.html").write_text(f"<!doctype html><title>A shop</title>{meta}{script}<h1>Lamps</h1>")
    enqueue(shop, 7, "Hello", sender="operator")
    page = site.open(address + "/")
    bubble = page.get_by_role("button", name=re.compile("Ask us"))
    expect(bubble).to_have_accessible_name("Ask us, 1 unread")
    page.evaluate(FORGE)  # by the shop's own page: not heard
    expect(bubble).to_have_accessible_name("Ask us, 1 unread", timeout=1)
    expect(bubble).to_have_attribute("aria-expanded", "false")
    bubble.click()
    frame = page.frame_locator("iframe")
    expect(frame.locator(".theirs .text")).to_have_text("Hello")
    expect(page.get_by_role("button")).to_have_accessible_name("Close the chat")
    frame.locator("#composer").fill("Hi")
    frame.locator("#composer").press("Enter")
    eventually(lambda: len(shop.execute("select 1 from sent_log").fetchall()) == 2)
    frame.locator("#composer").press("Escape")
    expect(page.get_by_role("button")).to_have_accessible_name("Ask us")
    expect(page.locator("iframe")).to_be_hidden()
