"""A stand-in for ssh, scp and the commands of SLURM, for machines that have none: one script under all their names.

``ssh`` runs the command here, ``sbatch`` starts the job script, the others tell of it. Jobs and faults are JSON files in
``$SLURM_DOUBLE``; ``faults.json`` says what goes wrong:

- ``ssh``, ``controller``, ``sacct``: ``"away"``; ``sacct`` also a state that it says of every job
- ``ends``: how the next jobs end, in order, without being run: ``{"state", "exit", "rss_kib", "begun", "log"}``; null runs the script
- ``forgets``: the controller does not know a job that has ended
- ``answer_lost``: sbatch takes the next job but does not say so
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(os.environ["SLURM_DOUBLE"])
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")


def write(file, value):
    aside = file.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(value))
    aside.replace(file)


def faults():
    file = HERE / "faults.json"
    return json.loads(file.read_text()) if file.exists() else {}


def clear(*names):
    write(HERE / "faults.json", {name: value for name, value in faults().items() if name not in names})


def jobs():
    return [json.loads(file.read_text()) for file in sorted((HERE / "jobs").glob("*.json"), key=lambda file: int(file.stem))]


def save(job):
    write(HERE / "jobs" / f"{job['id']}.json", job)


def options(arguments):
    found = {}
    for word in arguments:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = value
    return found


def fail(text, status=1):
    print(text, file=sys.stderr)
    sys.exit(status)


def ssh(arguments):
    takes = set("bcDeFIiJLlmOopQRSWw")
    place, master = 0, False
    while place < len(arguments) and arguments[place].startswith("-"):
        word = arguments[place]
        if word == "-O":
            sys.exit(0)
        master |= word in ("-M", "-N")
        place += 2 if word[1] in takes and len(word) == 2 else 1
    command = arguments[place + 1 :]
    if faults().get("ssh") == "away":
        fail("ssh: connect to host double port 22: Connection refused", 255)
    if master and not command:
        sys.exit(0)
    process = subprocess.Popen(["bash", "-c", " ".join(command)], start_new_session=True)

    def stop(*_):  # ssh drops the channel, and what follows a file there goes with it
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    sys.exit(process.wait() & 255)


def scp(arguments):
    if faults().get("ssh") == "away":
        fail("ssh: connect to host double port 22: Connection refused\nscp: Connection closed", 255)
    source, target = arguments[-2:]
    shutil.copyfile(source, target.partition(":")[2])


def reach_controller():
    if faults().get("controller") == "away":
        fail("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")


def sbatch(arguments):
    reach_controller()
    asked, script = options(arguments), arguments[-1]
    if asked.get("partition") == "nowhere":
        fail("sbatch: error: Batch job submission failed: Invalid partition name specified")
    number = len(jobs()) + 1
    job = {"id": number, "name": asked["job-name"], "state": "RUNNING", "exit": "0:0", "directory": asked["chdir"], "asked": asked}
    job["environment"] = dict(re.findall(r"^export (\w+)=(\S+)$", Path(script).read_text(), re.MULTILINE))
    out, err = (asked[name].replace("%j", str(number)) for name in ("output", "error"))
    ends = faults().get("ends") or []
    end = ends[0] if ends else None
    if ends:
        write(HERE / "faults.json", {**faults(), "ends": ends[1:]})
    save(job)
    if end is not None:
        Path(out).write_text("")
        Path(err).write_text(end.get("log", ""))
        requests = Path(job["environment"]["PERTURBRIDGE_REQUESTS"])
        digests = [request["digest"] for request in json.loads(requests.read_text())]
        requests.with_suffix(".begun").write_text("".join(f"{digest}\n" for digest in digests[: end.get("begun", 0)]))
        save({**job, "state": end["state"], "exit": end.get("exit", "0:0"), "rss_kib": end.get("rss_kib")})
    elif os.fork() == 0:
        os.setsid()
        run(job, script, out, err)
    if faults().get("answer_lost"):
        clear("answer_lost")
        fail("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    print(f"Submitted batch job {number}")


def run(job, script, out, err):
    devnull = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(devnull, descriptor)
    with Path(out).open("wb") as stdout, Path(err).open("wb") as stderr:
        environment = {**os.environ, "SLURM_JOB_ID": str(job["id"]), "SLURM_CPUS_PER_TASK": job["asked"]["cpus-per-task"]}
        process = subprocess.Popen(["bash", script], cwd=job["directory"], stdout=stdout, stderr=stderr, env=environment)
        save({**job, "pid": process.pid})
        status = process.wait()
    [now] = [one for one in jobs() if one["id"] == job["id"]]
    if now["state"] not in ENDED:
        exit_code = f"0:{-status}" if status < 0 else f"{status}:0"
        save({**now, "state": "FAILED" if status else "COMPLETED", "exit": exit_code})
    os._exit(0)


def squeue(arguments):
    reach_controller()
    asked = options(arguments)
    found = jobs()
    if "jobs" in asked:
        found = [job for job in found if str(job["id"]) == asked["jobs"]]
        if not found or (faults().get("forgets") and found[0]["state"] in ENDED):
            fail("slurm_load_jobs error: Invalid job id specified")
    elif asked.get("states") != "all":
        found = [job for job in found if job["state"] not in ENDED]
    for job in found:
        line = asked["format"]
        for mark, name in (("%A", "id"), ("%T", "state"), ("%j", "name"), ("%Z", "directory")):
            line = line.replace(mark, str(job[name]))
        print(line)


def sacct(arguments):
    said = faults().get("sacct")
    if said == "away":
        fail("sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:localhost:6819")
    asked = options(arguments)
    for job in jobs():
        if str(job["id"]) != asked.get("jobs"):
            continue
        state = said or job["state"]
        if "JobName" in asked["format"]:
            print(f"{job['name']}|{state}")
            continue
        rss = f"{job.get('rss_kib')}K" if job.get("rss_kib") else ""
        print(f"{job['id']}|{state}|{job['exit']}|{job['asked']['mem']}|1||40|00:20.000|node1|2026-11-21T18:00:00|2026-11-21T18:00:40")
        print(f"{job['id']}.batch|{state}|{job['exit']}||1|{rss}|40|00:20.000|node1|2026-11-21T18:00:00|2026-11-21T18:00:40")


def scontrol(arguments):
    reach_controller()
    for job in jobs():
        if str(job["id"]) == arguments[-1] and not faults().get("forgets"):
            print(f"JobId={job['id']} JobName={job['name']} JobState={job['state']} ExitCode={job['exit']} RunTime=00:00:40 NodeList=node1")
            return
    fail("slurm_load_jobs error: Invalid job id specified")


def scancel(arguments):
    reach_controller()
    for job in jobs():
        if str(job["id"]) == arguments[-1]:
            if job["state"] not in ENDED:
                save({**job, "state": "CANCELLED", "exit": "0:15"})
                for number in (signal.SIGTERM, signal.SIGKILL):
                    try:
                        os.kill(job["pid"], number)
                    except (KeyError, ProcessLookupError):
                        break
                    time.sleep(0.2)
            return
    fail("scancel: error: Kill job error on job id: Invalid job id specified")


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name](sys.argv[1:])
