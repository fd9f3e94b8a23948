"""Meshes in which some hosts have no device: their arrays move, and all hosts read them."""

from processes import Hosts


def test_arrays_move_between_meshes_of_other_hosts_and_are_read_by_all(tmp_path):
    hosts = Hosts(tmp_path, "across_run.py")
    assert hosts.codes() == [0, 0], hosts.text(0) + hosts.text(1)
    assert all(hosts.text(number).splitlines()[-1] == "done" for number in (0, 1))
