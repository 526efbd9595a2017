"""Alerts: every hook gets them, a failing one breaks nothing, and the URL of a webhook is never told."""

import http.server
import json
import logging
import threading
import time

import pytest

from drirl_core.config import AlertHookConfig, AlertsConfig
from pipeline.wiring import alerts
from pipeline.wiring.alerts import Alert, AlertError, send, send_all

TOKEN = "T0KEN-very-secret"
ALERT = Alert(
    "gate_failed",
    "the policy was not promoted",
    "over-refusal is 0.21, at most 0.15",
    {"suite": "xstest", "rate": 0.21},
)


class Receiver:
    """A web server on this machine that answers with the statuses of a script, the last one for ever."""

    def __init__(self):
        self.statuses, self.seen, self.paths, self.delay_s, self.headers = [200], [], [], 0.0, {}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                receiver.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                receiver.paths.append(self.path)
                time.sleep(receiver.delay_s)
                self.send_response(receiver.statuses[min(len(receiver.seen), len(receiver.statuses)) - 1])
                for name, value in {"Content-Length": "0", **receiver.headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                """Keep the output of the tests clean."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hooks/{TOKEN}"


@pytest.fixture
def receiver(monkeypatch):
    made = Receiver()
    monkeypatch.setenv("ALERT_URL", made.url)
    monkeypatch.setattr(alerts, "BACKOFF_S", 0.01)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def log(caplog):
    """A logger whose records are kept, with everything that any library logs."""
    caplog.set_level(logging.DEBUG)
    return logging.getLogger("test.alerts")


def hooks(*kinds, **settings):
    return AlertsConfig(tuple(AlertHookConfig(kind, **settings.get(kind, {})) for kind in kinds))


WEBHOOK = hooks("webhook", webhook={"url_env": "ALERT_URL"})


def said(caplog, name="test.alerts"):
    return [record.getMessage() for record in caplog.records if record.name == name]


def test_by_default_an_alert_goes_to_the_log(log, caplog):
    send(ALERT, AlertsConfig(), log)

    assert said(caplog) == ["the policy was not promoted\nover-refusal is 0.21, at most 0.15"]
    assert caplog.records[0].levelname == "WARNING"


def test_a_file_gets_a_line_an_alert(log, tmp_path):
    config = hooks("file", file={"path": str(tmp_path / "logs" / "alerts.jsonl")})
    send_all([ALERT, Alert("run_failed", "second", "")], config, log)
    send(ALERT, config, log)
    lines = [json.loads(line) for line in (tmp_path / "logs" / "alerts.jsonl").read_text().splitlines()]

    assert [line["title"] for line in lines] == ["the policy was not promoted", "second", "the policy was not promoted"]
    assert lines[0]["kind"] == "gate_failed"
    assert lines[0]["facts"] == {"suite": "xstest", "rate": 0.21}


def test_a_webhook_gets_json_that_a_chat_shows(receiver, log, caplog):
    send(ALERT, WEBHOOK, log)
    (body,) = receiver.seen

    assert body["text"] == "the policy was not promoted\nover-refusal is 0.21, at most 0.15"
    assert (body["kind"], body["facts"]["suite"]) == ("gate_failed", "xstest")
    assert receiver.paths == [f"/hooks/{TOKEN}"]
    assert said(caplog) == []
    assert TOKEN not in caplog.text


def test_a_server_in_trouble_is_asked_again(receiver, log, caplog):
    receiver.statuses = [500, 429, 204]
    send(ALERT, WEBHOOK, log)

    assert len(receiver.seen) == 3
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("statuses", "tries", "why"),
    [
        ([503], 3, "it answered 503 Service Unavailable, 3 times in a row"),
        ([404], 1, "it answered 404; put a valid URL into ALERT_URL"),
        ([302], 1, "it redirects (302), which is not followed; put the final URL into ALERT_URL"),
    ],
)
def test_what_was_not_delivered_is_logged_with_its_reason(receiver, log, caplog, statuses, tries, why):
    receiver.statuses, receiver.headers = statuses, {"Location": f"{receiver.url}/elsewhere"}
    send(ALERT, WEBHOOK, log)

    assert said(caplog) == [
        f"alert hook webhook ALERT_URL failed: {why}. Not delivered by it: the policy was not promoted"
    ]
    assert receiver.paths == [f"/hooks/{TOKEN}"] * tries
    assert TOKEN not in caplog.text


def test_a_silent_server_is_given_up(receiver, log, caplog, monkeypatch):
    monkeypatch.setattr(alerts, "TIMEOUT_S", 0.1)
    receiver.delay_s = 0.4
    send(ALERT, WEBHOOK, log)

    assert "no answer within 0.1 s, 3 times in a row" in said(caplog)[0]
    assert len(receiver.seen) == 3


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (None, "the environment variable ALERT_URL is not set"),
        (TOKEN, "holds no URL that starts with https:// or http://"),
        (f"http://127.0.0.1:1/{TOKEN}", "the connection failed (ConnectError), 3 times in a row"),
        (f"http://127.0.0.1:notaport/{TOKEN}", "the URL in ALERT_URL cannot be used (InvalidURL)"),
    ],
)
def test_a_url_that_cannot_work_is_told_without_being_shown(receiver, log, caplog, monkeypatch, url, why):
    monkeypatch.delenv("ALERT_URL") if url is None else monkeypatch.setenv("ALERT_URL", url)
    send(ALERT, WEBHOOK, log)

    assert why in said(caplog)[0]
    assert TOKEN not in caplog.text


def test_one_failing_hook_keeps_no_other_from_its_alerts(receiver, log, caplog, tmp_path):
    (tmp_path / "folder").mkdir()
    config = hooks("file", "webhook", "log", file={"path": str(tmp_path / "folder")}, webhook={"url_env": "ALERT_URL"})
    got = []

    def broken(alert):
        raise RuntimeError(f"connection to {TOKEN} refused")

    def telling(alert):
        raise AlertError("the pager is switched off")

    send_all([ALERT, ALERT], config, log, [broken, telling, got.append])

    assert len(receiver.seen) == len(got) == 2
    assert [line.partition(" Not")[0] for line in said(caplog) if line.startswith("alert hook")] == [
        f"alert hook file {tmp_path}/folder failed: {tmp_path}/folder cannot be written (Is a directory); mend its permissions or operations.alerts.",
        "alert hook broken failed: RuntimeError.",
        "alert hook telling failed: the pager is switched off.",
    ]
    assert TOKEN not in caplog.text


def test_a_hook_that_failed_is_not_asked_again_for_the_rest(receiver, log, caplog):
    receiver.statuses = [404]
    send_all([ALERT] * 5, WEBHOOK, log)

    assert len(receiver.seen) == 1
    assert said(caplog)[0].count("the policy was not promoted") == 5


def test_secrets_in_an_alert_are_blanked_out_before_it_leaves(log):
    got = []
    alert = Alert("run_failed", "at https://me:pw@host/x", "with sk-0123456789abcdef", {"api_key": "hush", "step": "a"})
    send(alert, hooks(), log, [got.append])

    assert (got[0].title, got[0].text) == ("at https://(hidden)@host/x", "with (hidden)")
    assert got[0].facts == {"api_key": "(hidden)", "step": "a"}


def test_logging_of_others_goes_on_as_before(receiver, log, caplog):
    send(ALERT, WEBHOOK, log)
    logging.getLogger("httpx").info("something else")

    assert "something else" in caplog.text
    assert logging.getLogger("httpx").filters == []
