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


SLICED = """HloModule sliced, is_scheduled=true

%doubled (p: f32[64]) -> f32[64] {
  %p = f32[64]{0:T(256)} parameter(0)
  ROOT %d = f32[64]{0:T(256)} add(%p, %p)
}

ENTRY %main (a: f32[8,256], n: f32[1,256], b: f32[64]) -> f32[64] {
  %a = f32[8,256]{1,0:T(8,128)} parameter(0)
  %n = f32[1,256]{1,0:T(8,128)} parameter(1)
  %b = f32[64]{0:T(256)} parameter(2)
  %z = s32[]{:T(128)} constant(0)
BODY
}
"""
A, ROW = "f32[8,256]{1,0:T(8,128)}", "f32[1,256]{1,0:T(8,128)}"
ROW_IN_VMEM, TWO_IN_VMEM = "f32[1,256]{1,0:T(8,128)S(1)}", "f32[2,256]{1,0:T(8,128)S(1)}"
FIRST, SECOND = "slice={[0:1], [0:256]}", "slice={[1:2], [0:256]}"


@pytest.mark.parametrize(
    "body, moved",
    [
        # Fetched ahead: read from HBM once, in parts that are one array without a copy.
        (
            f"%s = (({A}), {ROW_IN_VMEM}, s32[]{{:S(2)}}) slice-start(%a), {FIRST}\n"
            f"  %t = (({A}), {ROW_IN_VMEM}, s32[]{{:S(2)}}) slice-start(%a), {SECOND}\n"
            f"  %u = {ROW_IN_VMEM} slice-done(%s)\n  %v = {ROW_IN_VMEM} slice-done(%t)\n"
            f'  ROOT %w = {TWO_IN_VMEM} custom-call(%u, %v), custom_call_target="ConcatBitcast"',
            2 * KILOBYTE,
        ),
        # To another place of HBM: read and written.
        (
            f"%s = (({A}), {ROW}, s32[]{{:S(2)}}) slice-start(%a), {FIRST}\n"
            f"  ROOT %u = {ROW} slice-done(%s)",
            2 * KILOBYTE,
        ),
        (
            f"%s = (({A}, s32[], s32[]), {ROW_IN_VMEM}, s32[]{{:S(2)}}) "
            f"dynamic-slice-start(%a, %z, %z)\n  ROOT %u = {ROW_IN_VMEM} dynamic-slice-done(%s)",
            KILOBYTE,
        ),
        (
            f"%s = (({A}, {ROW}, s32[], s32[]), {A}, s32[]{{:S(2)}}) "
            f"dynamic-update-slice-start(%a, %n, %z, %z)\n"
            f"  ROOT %u = {A} dynamic-update-slice-done(%s)",
            2 * KILOBYTE,
        ),
        # What an asynchronous call or fusion does counts, once: 64 numbers read and written.
        (
            "%s = ((f32[64]{0:T(256)}), f32[64]{0:T(256)}, s32[]{:S(2)}) call-start(%b), "
            "to_apply=%doubled\n  ROOT %u = f32[64]{0:T(256)} call-done(%s)",
            3 * KILOBYTE / 4,  # the sum reads its operand twice
        ),
        (
            "%s = ((f32[64]{0:T(256)}), f32[64]{0:T(256)}, s32[]{:S(2)}) fusion-start(%b), "
            "kind=kLoop, calls=%doubled\n  ROOT %u = f32[64]{0:T(256)} fusion-done(%s)",
            2 * KILOBYTE / 4,
        ),
        (
            f"%s = ({ROW}, f32[4,256]{{1,0:T(8,128)}}) all-gather-start(%n), channel_id=1\n"
            "  ROOT %u = f32[4,256]{1,0:T(8,128)} all-gather-done(%s)",
            5 * KILOBYTE,
        ),
        (f"%s = {ROW} all-reduce-start(%n)\n  ROOT %u = {ROW} all-reduce-done(%s)", 2 * KILOBYTE),
    ],
)
def test_what_starts_asynchronously_moves_what_it_does_at_once(body, moved):
    program = hlo.parse(SLICED.replace("BODY", "  " + body))
    assert traffic.hbm_bytes(program) == moved


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
