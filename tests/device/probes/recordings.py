"""What boards print, in the form in which others recorded it; the numbers here are made up.

Sources, all read 2026-11-26:

- L4T 32, 35 and 36 lines of tegrastats, -256 C, unconnected rails "NC": rbonghi/jetson_stats,
  tests/tegrastats and issues 187 and 350; martinkersner/gtop, pull request 7.
- L4T 36.4 arrays "0%@[0,0]", units that are "off": users' lines in public monitoring projects;
  L4T 39 "now/peak" temperatures and "now/average/peak" rails: rbonghi/jetson_stats,
  jtop/tests/test_06_tegra_parse.py (a real line of a Jetson AGX Orin with JetPack 7.2), and lines
  of a Jetson Thor.
- nv_tegra_release, nvpmodel -q with and without root, nvpmodel.conf, /var/lib/nvpmodel/status,
  package versions: users' issues and logs of boards; nvpmodel.conf's head as NVIDIA ships it.
- Over-current counters: NVIDIA's driver tegra234-oc-event.c. Cooling devices: users' kernel logs
  ("bcpu-throttle-alert cooling state: 0 -> 1") and monitoring projects.
- Raspberry Pi: raspberrypi/linux, pull request 2397, and raspberrypi/firmware, issue 615.
"""

from collections.abc import Mapping, Sequence

NANO_32 = (
    "RAM 410/3964MB (lfb 700x4MB) SWAP 3/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [12%@102,0%@102,7%@204,1%@102] EMC_FREQ 3%@204 GR3D_FREQ 5%@76 APE 25 PLL@20.5C "
    "CPU@23.5C PMIC@100C GPU@22.5C AO@27.5C thermal@23C POM_5V_IN 933/950 POM_5V_GPU 0/0 "
    "POM_5V_CPU 84/105"
)
TX2_32 = (
    "RAM 1700/3825MB (lfb 339x4MB) SWAP 0/1913MB (cached 0MB) CPU [3%@345,off,off,0%@345,1%@345,"
    "1%@345] EMC_FREQ 0% GR3D_FREQ 0% PLL@50.5C MCPU@50.5C PMIC@50C GPU@50C BCPU@-4.5C "
    "thermal@50.3C"
)
XAVIER_32 = (
    "RAM 500/15823MB (lfb 3702x4MB) SWAP 0/7911MB (cached 0MB) CPU [1%@2265,2%@2265] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 9%@1377 APE 150 MTS fg 0% bg 1% AO@26.5C GPU@28C iwlwifi@30C "
    "PMIC@100C GPU 1155/1150 CPU 385/385 SOC 2502/2502 CV 0/0"
)
ORIN_35 = (
    "01-03-2023 16:07:54 RAM 2300/30536MB (lfb 5392x4MB) SWAP 0/15268MB (cached 0MB) "
    "CPU [0%@729,100%@2201,off,off] EMC_FREQ 0%@204 GR3D_FREQ 40%@611 GR3D2_FREQ 40%@612 "
    "NVJPG1 729 VIC_FREQ 115 APE 233 CV0@-256C CPU@41.437C Tboard@29C SOC2@39.062C GPU@-256C "
    "tj@41.656C VDD_GPU_SOC 2390mW/2391mW VDD_CPU_CV 796mW/796mW VIN_SYS_5V0 3522mW/3522mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
ORIN_NANO_36 = (
    "12-23-2024 22:54:11 RAM 3100/7620MB (lfb 4x2MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [1%@729,0%@729,3%@1510,0%@729,off,off] EMC_FREQ 1%@2133 GR3D_FREQ 26%@[306] NVDEC off "
    "NVJPG off VIC_FREQ off OFA off APE 200 cpu@62.843C soc2@61.968C soc0@60.625C gpu@61.687C "
    "tj@62.843C soc1@61.687C VDD_IN 4940mW/4941mW VDD_CPU_GPU_CV 598mW/598mW VDD_SOC 1238mW/1237mW"
)
ORIN_36_ARRAYS = (
    "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) "
    "CPU [14%@2188,5%@2112] EMC_FREQ 3%@2133 GR3D_FREQ 0%@[0,0] NVENC 79%@166 NVDEC off VIC "
    "36%@115 PVA0_FREQ off APE 174 cpu@52.562C tj@52.562C VDD_GPU_SOC 2412mW/2412mW"
)
ORIN_39 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] NVENC0 off VIC off NVDLA0 off APE 174 cpu@52.968C/53.5C "
    "gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5000mW/6100mW"
)
THOR_39 = (
    "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 "
    "GR3D_FREQ @[1574,off,1574] NVENC0_FREQ @1691 cpu@49.75C/49.75C VIN 28906mW/14453mW/28906mW"
)
TEGRASTATS = (
    NANO_32, TX2_32, XAVIER_32, ORIN_35, ORIN_NANO_36, ORIN_36_ARRAYS, ORIN_39, THOR_39
)  # fmt: skip

NVPMODEL_SUPER = """\
# FORMAT:
# < PARAM TYPE=PARAM_TYPE NAME=PARAM_NAME >
# < POWER_MODEL ID=id_num NAME=mode_name >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=3 NAME=7W >
CPU_ONLINE CORE_0 1
< PM_CONFIG DEFAULT=1 >
"""
NVPMODEL_AS_USER = """\
NV Fan Mode:quiet
NV Power Mode: MODE_15W_DESKTOP
7
NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13
NVPM ERROR: failed to read PARAM EMC: ARG MAX_FREQ: PATH /sys/kernel/nvpmodel_emc_cap/emc_iso_cap
"""
L4T_36 = (
    "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Wed Jan 8 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)
PACKAGES_36 = (
    "cuda-cudart-12-6\t12.6.68-1\tii \nlibnvinfer10\t10.3.0.30-1+cuda12.5\tii \n"
    "libnvinfer8\t8.5.2-1+cuda11.4\trc \nnvidia-jetpack\t6.2+b77\tii \n"
    "nvidia-l4t-core\t36.4.3-20250107174145\tii \n"
)
MEMINFO = (
    "MemTotal:        7802696 kB\nMemFree:          190304 kB\nMemAvailable:    4562928 kB\n"
    "SwapTotal:             0 kB\nSwapFree:              0 kB\nHugePages_Total:       0\n"
)

ORIN_NANO: dict[str, str] = {
    "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0",
    "/etc/nv_tegra_release": L4T_36,
    "/etc/nvpmodel.conf": NVPMODEL_SUPER,
    "/var/lib/nvpmodel/status": "pmode:0000 fmode:quiet\n",
    "/proc/meminfo": MEMINFO,
    "/sys/devices/system/cpu/offline": "4-5\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1510400\n",
    "/sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1728000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
    "/sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "/sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "/sys/class/devfreq/17000000.gpu/max_freq": "612000000\n",
    "/sys/class/devfreq/17000000.gpu/available_frequencies": "306000000 612000000 1020000000\n",
    "/sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov\n",
    "/sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "52062\n",
    "/sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",  # its temp can't be read: EAGAIN
    "/sys/class/thermal/thermal_zone8/type": "tj-thermal\n",
    "/sys/class/thermal/thermal_zone8/temp": "53281\n",
    "/sys/class/thermal/cooling_device0/type": "cpu-throttle-alert\n",
    "/sys/class/thermal/cooling_device0/cur_state": "0\n",
    "/sys/class/thermal/cooling_device1/type": "pwm-fan\n",
    "/sys/class/thermal/cooling_device1/cur_state": "3\n",
    "/sys/class/thermal/cooling_device2/type": "hot-surface-alert\n",
    "/sys/class/thermal/cooling_device2/cur_state": "1\n",
    "/sys/class/thermal/cooling_device3/type": "devfreq-17000000.gpu\n",
    "/sys/class/thermal/cooling_device3/cur_state": "0\n",
    "/sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "/sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "/sys/class/hwmon/hwmon3/oc1_throt_en": "1\n",
    "/sys/class/hwmon/hwmon3/oc2_event_cnt": "15\n",
    "/sys/class/hwmon/hwmon3/oc2_throt_en": "0\n",
    "/sys/class/hwmon/hwmon3/oc3_event_cnt": "37\n",
    "/sys/class/hwmon/hwmon3/oc3_throt_en": "1\n",
}
RASPBERRY_PI_5: dict[str, str] = {
    "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "/proc/meminfo": MEMINFO,
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "61700\n",
    "/sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "/sys/class/thermal/cooling_device0/cur_state": "1\n",
    "/sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "80000\n",
}
DESKTOP: dict[str, str] = {
    "/sys/class/hwmon/hwmon0/name": "nvme\n",
    "/sys/class/hwmon/hwmon0/temp1_input": "71000\n",
    "/sys/class/hwmon/hwmon1/name": "k10temp\n",
    "/sys/class/hwmon/hwmon1/temp1_input": "45250\n",
    "/sys/class/thermal/cooling_device0/type": "Processor\n",
    "/sys/class/thermal/cooling_device0/cur_state": "0\n",
}


class RecordedSystem:
    """A machine made of files and of what its tools print, by name."""

    def __init__(self, files: Mapping[str, str], tools: Mapping[str, str] | None = None) -> None:
        self._files = files
        self._tools = tools or {}
        self.started: list[str] = []

    def read_text(self, path: str) -> str | None:
        return self._files.get(path)

    def list_names(self, folder: str) -> tuple[str, ...]:
        depth = len(folder) + 1
        inside = (path for path in self._files if path.startswith(f"{folder}/"))
        return tuple(sorted({path[depth:].split("/")[0] for path in inside}))

    def run(self, arguments: Sequence[str], *, lines: int | None = None) -> str | None:
        self.started.append(arguments[0])
        return self._tools.get(arguments[0])
