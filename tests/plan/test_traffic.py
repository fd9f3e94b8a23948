"""Bytes of HBM that a program moves, counted on programs that are written out here."""

import pytest

from qwen3.plan import hlo, traffic

PROGRAM = """HloModule counted, is_scheduled=true

%fused (p0: f32[256], p1: f32[256]) -> f32[256] {
  %p0 = f32[256]{0:T(256)} parameter(0)
  %p1 = f32[256]{0:T(256)} parameter(1)
  ROOT %sum = f32[256]{0:T(256)} add(%p0, %p1)
}

ENTRY %main (a: f32[256], b: f32[256]) -> f32[256] {
  %a = f32[256]{0:T(256)} parameter(0)
  %b = f32[256]{0:T(256)} parameter(1)
BODY
}
"""
KILOBYTE = 1024.0
IN_VMEM = "f32[256]{0:T(256)S(1)}"
FUSION = "fusion(%a, %b), kind=kLoop, calls=%fused"


@pytest.mark.parametrize(
    "body, moved",
    [
        (f"ROOT %x = f32[256]{{0:T(256)}} {FUSION}", 3 * KILOBYTE),
        (f"ROOT %x = {IN_VMEM} {FUSION}", 2 * KILOBYTE),
        (f"%x = {IN_VMEM} {FUSION}\n  ROOT %y = {IN_VMEM} negate(%x)", 2 * KILOBYTE),
        (f"%x = {IN_VMEM} {FUSION}\n  ROOT %y = f32[256]{{0}} copy(%x)", 3 * KILOBYTE),
        # What is fetched ahead is read once from HBM, and the second time from VMEM.
        (
            f"%c = ({IN_VMEM}, f32[256]{{0:T(256)}}, u32[]{{:S(2)}}) copy-start(%a)\n"
            f"  %d = {IN_VMEM} copy-done(%c)\n  ROOT %y = {IN_VMEM} negate(%d)",
            KILOBYTE,
        ),
        (
            "%c = (f32[256]{0:T(256)}, f32[256]{0:T(256)}, u32[]{:S(2)}) copy-start(%a)\n"
            "  ROOT %d = f32[256]{0} copy-done(%c)",
            2 * KILOBYTE,
        ),
        ("ROOT %s = f32[64]{0} slice(%a), slice={[0:64]}", 2 * KILOBYTE / 4),
        ("ROOT %s = f32[64]{0:S(1)} slice(%a), slice={[0:64]}", KILOBYTE / 4),
    ],
)
def test_what_lives_in_vector_memory_moves_no_bytes_of_hbm(body, moved):
    program = hlo.parse(PROGRAM.replace("BODY", "  " + body))
    assert traffic.hbm_bytes(program) == moved


TILED = """HloModule tiled, is_scheduled=true

%copy (p: s8[8,1024]) -> s8[8,1024] {
  %p = s8[8,1024]{1,0:T(32,128)(4,1)} parameter(0)
  ROOT %c = s8[8,1024]{1,0:T(8,128)(4,1)} copy(%p)
}

%fused (p0: s8[8,1024], p1: s32[]) -> s8[1,1024] {
  %p0 = s8[8,1024]{1,0:T(32,128)(4,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %q = s8[8,1024]{1,0:T(8,128)(4,1)} fusion(%p0), kind=kLoop, ALIASINGcalls=%copy
  %z = s32[]{:T(128)} constant(0)
  ROOT %s = s8[1,1024]{1,0:T(8,128)(4,1)} dynamic-slice(%q, %p1, %z)
}

ENTRY %main (a: s8[8,1024], i: s32[]) -> s8[1,1024] {
  %a = s8[8,1024]{1,0:T(32,128)(4,1)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  ROOT %x = s8[1,1024]{1,0:T(8,128)(4,1)} fusion(%a, %i), kind=kLoop, calls=%fused
}
"""


def test_a_slice_of_int8_in_another_tiling_of_the_same_bytes_is_no_more_than_a_slice():
    same = TILED.replace("ALIASING", "output_to_operand_aliasing={{}: (0, {})}, ")
    assert traffic.hbm_bytes(hlo.parse(same)) == 2 * KILOBYTE
    assert traffic.hbm_bytes(hlo.parse(TILED.replace("ALIASING", ""))) == 9 * KILOBYTE


@pytest.mark.parametrize(
    "groups, count",
    [
        ("{{0,1},{2,3}}", 2),
        ("[16,64]<=[1024]", 64),
        ("[4,8]<=[8,4]T(1,0)", 8),
        ("mesh['axis_0'=4,'axis_1'=8] {'axis_1'}", 8),
        ("mesh['axis_0'=4,'axis_1'=8], device_ids=([8,4]T(1,0)) {'axis_0','axis_1'}", 32),
        ("mesh['axis_0'=1,'axis_1'=4,'axis_2'=8], device_ids=([4,2,4]T(1,0,2)) {'axis_1'}", 4),
    ],
)
def test_a_collective_is_counted_over_its_own_group(groups, count):
    gather = f"all-gather(%a), channel_id=1, replica_groups={groups}, dimensions={{0}}"
    program = hlo.parse(PROGRAM.replace("BODY", f"  ROOT %g = f32[{256 * count}]{{0}} {gather}"))
    (sent,) = traffic.collectives(program, devices=4096)
    assert (sent.kind, sent.bytes) == ("all-gather", KILOBYTE * (count - 1))
