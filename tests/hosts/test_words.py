"""What hosts tell each other through the coordination service."""

from processes import Hosts


def test_words_and_verdicts_reach_all_hosts_and_are_not_kept(tmp_path):
    hosts = Hosts(tmp_path, "word_run.py")
    assert hosts.codes() == [0, 0], hosts.text(0) + hosts.text(1)
    assert all(hosts.text(number).splitlines()[-1] == "done" for number in (0, 1))
