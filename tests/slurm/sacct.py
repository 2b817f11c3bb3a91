#!/usr/bin/env python3
"""Stands in for sacct, which needs a database: what submitit asks it for, answered from what slurmctld remembers."""

import re
import subprocess
import sys

print("JobID|State|NodeList")
for option, number in zip(sys.argv[1:], sys.argv[2:], strict=False):
    if option != "-j":
        continue
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", number], capture_output=True, text=True)
    for line in shown.stdout.splitlines():
        job = dict(re.findall(r"(\w+)=(\S*)", line))
        name = job["JobId"]
        if "ArrayJobId" in job:
            task = job["ArrayTaskId"]  # a range for those that still wait
            name = f"{job['ArrayJobId']}_{task if task.isdigit() else f'[{task}]'}"
        print(f"{name}|{job['JobState']}|{job.get('NodeList', '')}")
