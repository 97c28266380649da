"""Which settings PostgreSQL gets on which host."""

from __future__ import annotations

import pytest
from ansible_collections.django_vps.stack.plugins.filter.postgres_tuning import postgres_tuning
from ansible_collections.django_vps.stack.plugins.modules import check_host


def host(memory_mb: int = 3900, *, has_app: bool = True, **facts) -> dict:
    machine = {"memory_mb": memory_mb, "processors": 2, "data_disk_mb": 40_000, "data_disk_spins": False, **facts}
    return {"ansible_facts": machine, "__claim": {"has_app": has_app}}


def tuned(of: dict, **others: dict) -> dict:
    return postgres_tuning({"vps1": of, **others}, "vps1", ["vps1", *others])


@pytest.mark.parametrize(
    ("memory_mb", "has_app", "settings"),
    [
        (964, True, {"shared_buffers": "128MB", "effective_cache_size": "384MB", "work_mem": "4MB"}),
        (1972, True, {"shared_buffers": "256MB", "maintenance_work_mem": "64MB", "max_connections": 100}),
        (3900, True, {"shared_buffers": "512MB", "work_mem": "7MB", "max_connections": 102}),
        (7940, False, {"shared_buffers": "2048MB", "effective_cache_size": "6144MB", "max_connections": 204}),
        (64_000, False, {"shared_buffers": "8192MB", "work_mem": "28MB", "max_connections": 1000}),
        # Less than the smallest VPS that is for sale.
        (100, True, {"shared_buffers": "64MB", "maintenance_work_mem": "32MB", "max_connections": 100}),
    ],
)
def test_memory_is_shared_with_the_app_server(memory_mb, has_app, settings):
    found = tuned(host(memory_mb, has_app=has_app))
    assert {name: found[name] for name in settings} == settings


@pytest.mark.parametrize("memory_mb", [960, 1024, 2048, 4096])
def test_memory_in_use_fits_into_the_share_of_postgresql(memory_mb):
    found = {
        name: int(str(value).removesuffix("MB"))
        for name, value in tuned(host(memory_mb)).items()
        if name != "random_page_cost" and "factor" not in name
    }
    # 2 workers of 4 threads for each of two releases, each with 5 MB of its own, and the three workers of autovacuum.
    used = found["shared_buffers"] + 16 * (5 + found["work_mem"]) + 3 * found["maintenance_work_mem"]
    assert used <= memory_mb // 2


def test_without_a_claim_the_groups_of_the_host_count():
    alone, shared = host(has_app=False), host()
    del alone["__claim"], shared["__claim"]
    shared["group_names"] = ["app", "database"]
    assert tuned(alone) == tuned(host(has_app=False))
    assert tuned(shared) == tuned(host())


def test_another_kernel_changes_nothing():
    assert tuned(host(3900)) == tuned(host(3871))


def test_a_standby_has_as_many_connections_as_its_primary():
    small, large = host(1972, has_app=False), host(15_900, has_app=False)
    assert tuned(large, db2=small)["max_connections"] == tuned(small, db2=large)["max_connections"] == 100
    assert tuned(large, db2=small)["shared_buffers"] == "4096MB"


def test_a_magnetic_disk_is_read_in_order():
    flash, magnetic = tuned(host()), tuned(host(data_disk_spins=True))
    assert (flash["random_page_cost"], magnetic["random_page_cost"]) == (1.1, 4)
    assert magnetic["effective_io_concurrency"] < flash["effective_io_concurrency"]


@pytest.mark.parametrize(("size_mb", "wal"), [(3_000, "256MB"), (20_000, "1000MB"), (500_000, "4096MB")])
def test_wal_takes_a_small_part_of_the_disk(size_mb, wal):
    assert tuned(host(data_disk_mb=size_mb))["max_wal_size"] == wal


def test_without_facts_postgresql_keeps_its_defaults():
    assert tuned({"ansible_facts": {}}) == tuned(host(), db2={}) == {}


@pytest.mark.parametrize(
    ("vendor", "model", "rotational", "is_magnetic"),
    [
        ("ATA", "WDC WD4003FZEX", "1", True),
        ("ATA", "Samsung SSD 870", "0", False),
        # What the kernel says of the disks of virtual machines: virtio-scsi, and SATA of QEMU.
        ("QEMU", "QEMU HARDDISK", "1", False),
        ("ATA", "QEMU HARDDISK", "1", False),
        (None, None, "1", False),
    ],
)
def test_only_physical_disks_spin(tmp_path, vendor, model, rotational, is_magnetic):
    disk, volume = tmp_path / "sda", tmp_path / "dm-0"
    (disk / "queue").mkdir(parents=True)
    (disk / "queue/rotational").write_text(f"{rotational}\n")
    if vendor:
        (disk / "device").mkdir()
        (disk / "device/vendor").write_text(f"{vendor}     \n")
        (disk / "device/model").write_text(f"{model}\n")
    (disk / "sda1").mkdir()
    (disk / "sda1/partition").write_text("1\n")
    (volume / "slaves").mkdir(parents=True)
    (volume / "slaves/sda1").symlink_to(disk / "sda1")
    assert {check_host.spins(each) for each in (disk, disk / "sda1", volume)} == {is_magnetic}


def test_a_file_system_without_a_disk_does_not_spin(tmp_path):
    assert not check_host.spins(tmp_path / "0:52")


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(check_host, "MEMORY_LIMIT", limit)
    all_of_it = check_host.memory_mb()
    limit.write_text("max\n")
    assert check_host.memory_mb() == all_of_it
    limit.write_text(f"{512 * 2**20}\n")
    assert check_host.memory_mb() == 512
