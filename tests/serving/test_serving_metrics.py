"""What Prometheus reads."""

from __future__ import annotations

from unifashion_pl.serving.metrics import Metrics


def test_servers_of_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.requests.labels("/search", "200").inc(3)
    one.watch("waiting_search", "Requests that wait", lambda: 7)
    assert 'unifashion_requests_total{endpoint="/search",status="200"} 3.0' in one.text().decode()
    assert "unifashion_waiting_search 7.0" in one.text().decode()
    assert "/search" not in two.text().decode()
    assert b"process_resident_memory_bytes" in two.text()
