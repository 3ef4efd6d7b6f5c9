import pytest

from benchmarks.cuda import Job, jobs, roofline_ms


def test_jobs_are_all_models_in_both_precisions_unless_some_are_named() -> None:
    assert len(list(jobs([]))) == 16
    assert list(jobs(["resnet-50:int8", "rapidocr-det:float16", "mobilenetv2:float16:4"])) == [
        Job("resnet-50", "int8", (1, 8)),
        Job("rapidocr-det", "float16", (1,)),
        Job("mobilenetv2", "float16", (4,)),
    ]


def test_a_roofline_takes_the_longer_of_both_limits_of_each_step() -> None:
    arithmetic, memory = (989 * 10**9 // 2, 0), (0, 48 * 10**8)
    assert roofline_ms([arithmetic], "NVIDIA H200", "float16") == pytest.approx(1.0)
    assert roofline_ms([memory], "NVIDIA H200", "int8") == pytest.approx(1.0)
    both = [(arithmetic[0], memory[1])]
    assert roofline_ms(both, "NVIDIA H200", "float16") == pytest.approx(1.0)
    assert roofline_ms(both, "some other GPU", "float16") is None
