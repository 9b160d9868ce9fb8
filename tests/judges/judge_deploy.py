"""What tools/deploy promises a container engine and Kubernetes, neither of which runs here: read by others' parsers and
schemas, and done by hand as far as it goes: the installed program, moved, and the list of packages that it needs.

Each check is a list of complaints, so that it can be seen to complain of what is spoiled on purpose.
"""

import io
import os
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from tune_program import BINARY, BUILD, ROOT, tune

DEPLOY = ROOT / "tools" / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPILERS = re.compile(r"^(gcc|g\+\+|clang|llvm|nvcc|cuda|build-essential|make|cmake|ninja|python3?|.*-dev)(-|$)")


# --- the Dockerfile ---


def stages_of(text):
    """[(name, base, instructions)]; arguments of bases are replaced by their defaults."""
    stages, defaults = [], {}
    for line in DockerfileParser(fileobj=io.BytesIO(text.encode())).structure:
        kind, value = line["instruction"], line["value"]
        if kind == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", value).groups()
            stages.append((name, re.sub(r"\$\{(\w+)\}", lambda at: defaults[at[1]], base), []))
        elif stages and kind != "COMMENT":
            stages[-1][2].append((kind, value))
        elif kind == "ARG":
            name, default = value.split("=")
            defaults[name] = default
    return stages


def is_ignored(path):
    """As docker does it, for the patterns that are used here: the last one that fits a path or a folder above it decides."""
    ignored = False
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.removeprefix("!")).replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            ignored = not line.startswith("!")
    return ignored


def dockerfile_complaints(text):
    wrong = []
    stages = stages_of(text)
    names = [name for name, _, _ in stages]
    if len(names) < 2:
        wrong.append("one stage")
    for i, (_, _, lines) in enumerate(stages):
        for kind, value in lines:
            if kind == "COPY":
                origin = re.match(r"--from=(\S+) ", value)
                sources = value.split()[:-1][1 if origin else 0 :]
                if origin and origin[1] not in names[:i]:
                    wrong.append(f"copies from {origin[1]}, which is no earlier stage")
                for source in [] if origin else sources:
                    if not (ROOT / source).exists():
                        wrong.append(f"{source} is not in the tree")
                    if is_ignored(source):
                        wrong.append(f"{source} is not in the context")
            if kind == "RUN":
                script = re.sub(r"^--mount=\S+ ", "", value)
                if subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True).returncode != 0:
                    wrong.append(f"is no shell: {script}")
    _, base, last = stages[-1]
    if "devel" in base:
        wrong.append("the image has the base's compilers")
    for kind, value in last:
        if kind == "RUN":
            wrong += [f"the image has {word}" for word in value.split() if COMPILERS.match(word)]
    users = [value for kind, value in last if kind == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        wrong.append("the user is root, or has no number that Kubernetes could see")
    if [value for kind, value in last if kind == "ENTRYPOINT"] != ['["tune"]']:
        wrong.append("SIGTERM would reach a shell")
    return wrong


def test_dockerfile():
    (build, base, lines), (runtime, runtime_base, _) = stages_of(DOCKERFILE)
    assert (build, runtime) == ("build", "runtime")
    assert re.fullmatch(r"nvidia/cuda:13\.[\d.]+-devel-ubuntu24\.04", base) and runtime_base == "ubuntu:24.04"
    assert dockerfile_complaints(DOCKERFILE) == []
    known = (ROOT / "tools/build.sh").read_text() + (ROOT / "cmake/revision.cmake").read_text()
    for name in [value.split("=")[0] for kind, value in lines if kind == "ARG"]:
        assert re.search(rf"(\$\{{|ENV\{{){name}\b", known), f"nobody reads {name}"
    assert not is_ignored("tools/deploy/runtime-packages.sh") and not is_ignored("train/kernels/matmul.cpp")
    assert is_ignored("build/tune") and is_ignored(".venv") and is_ignored("tools/deploy/kubernetes.yaml")


@pytest.mark.parametrize(
    "text, spoiled, complaint",
    [
        ("COPY train train", "COPY trane trane", "trane is not in the tree"),
        ("COPY train train", "COPY tests tests", "tests is not in the context"),
        ("COPY --from=build /opt/tune /opt/tune", "COPY --from=builder /opt/tune /opt/tune", "copies from builder"),
        ("RUN apt-get update", "RUN apt-get update && apt-get install g++", "the image has g\\+\\+"),
        ("RUNTIME_IMAGE=ubuntu:24.04", "RUNTIME_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04", "the base's compilers"),
        ("--prefix /opt/tune", "--prefix /opt/tune && (", "is no shell"),
        ("USER 10001:10001", "USER root", "root"),
        ('ENTRYPOINT ["tune"]', "ENTRYPOINT tune", "SIGTERM"),
    ],
)
def test_spoiled_dockerfile(text, spoiled, complaint):
    assert text in DOCKERFILE
    assert re.search(complaint, "\n".join(dockerfile_complaints(DOCKERFILE.replace(text, spoiled))))


# --- what the image holds ---


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The prefix after it was moved; its libraries are links, for they are large."""
    root = tmp_path_factory.mktemp("prefix")
    for component, mode in [("program", "COPY"), ("libraries", "ABS_SYMLINK")]:
        command = [ROOT / ".venv/bin/cmake", "--install", BUILD, "--prefix", root / "first", "--component", component]
        done = subprocess.run(command, env={**os.environ, "CMAKE_INSTALL_MODE": mode}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return (root / "first").rename(root / "moved")


def test_installed_program_may_be_moved(installed, tmp_path):
    program = installed / "bin" / "tune"
    dynamic = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    folders = re.search(r"R(?:UN)?PATH\).*\[(.*)\]", dynamic)[1].split(":")
    assert all(folder.startswith("$ORIGIN/../lib/tune/") for folder in folders), folders

    def run(*arguments):
        return subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True)

    assert run("--version").stdout == tune("--version").stdout
    shipped = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    assert [line.split()[0] for line in run("recipes", "ls").stdout.splitlines()] == shipped
    assert run("recipes", "show", "quickstart").stdout == (ROOT / "recipes" / "quickstart.yaml").read_text()
    doctor = run("doctor")
    assert f"{len(shipped)} shipped, in {installed}/share/tune/recipes" in doctor.stdout + doctor.stderr


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="the packages are Debian's or Ubuntu's")
def test_runtime_packages(installed):
    done = subprocess.run([DEPLOY / "runtime-packages.sh", installed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = done.stdout.split()
    assert {"libc6", "libstdc++6"} < set(packages) and any(name.startswith("libsentencepiece") for name in packages)
    assert not [name for name in packages if COMPILERS.match(name)]
    said = subprocess.run(["apt-cache", "policy", *packages], capture_output=True, text=True, check=True).stdout
    assert said.count("Candidate:") == len(packages) and "Candidate: (none)" not in said, said


def test_runtime_packages_says_what_is_of_no_package(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "bin" / "tune").symlink_to(BINARY)  # its libraries lie in .venv
    done = subprocess.run([DEPLOY / "runtime-packages.sh", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "is of no package" in done.stderr


# --- Kubernetes ---


def manifests():
    return [
        document
        for name in ("kubernetes-volumes", "kubernetes-one-host", "kubernetes")
        for document in yaml.safe_load_all((DEPLOY / f"{name}.yaml").read_text())
    ]


def schema_complaints(documents, version):
    wrong = []
    for document in documents:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            wrong.append(f"{document['kind']} {'.'.join(map(str, error.path))}: {error.message}")
    return wrong


def option(arguments, name):
    return arguments[arguments.index(name) + 1]


def complaints(documents):
    """What the schema can't see: the names and numbers that must agree."""
    wrong = []

    def check(right, text):
        if not right:
            wrong.append(text)

    services = {each["metadata"]["name"]: each for each in documents if each["kind"] == "Service"}
    claims = {each["metadata"]["name"] for each in documents if each["kind"] == "PersistentVolumeClaim"}
    for job in [each for each in documents if each["kind"] == "Job"]:
        spec, pod = job["spec"], job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        arguments, volumes = container["args"], {each["name"]: each for each in pod["volumes"]}
        for each in [*pod["containers"], *pod.get("initContainers", [])]:
            safe = each["securityContext"]
            check(not safe["allowPrivilegeEscalation"] and safe["capabilities"]["drop"] == ["ALL"], "may become root")
            check(each["image"] == container["image"], "two images")
            check({mount["name"] for mount in each.get("volumeMounts", [])} <= set(volumes), "mounts no volume")
        check(pod["securityContext"]["runAsNonRoot"], "may be root")
        user = re.search(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)[1]
        check(pod["securityContext"]["runAsUser"] == int(user), "another user than the image's")
        check(pod["restartPolicy"] == "Never", "a failure policy needs restartPolicy: Never")
        check(spec["podReplacementPolicy"] == "Failed", "two pods would write one output_dir")
        check(pod["terminationGracePeriodSeconds"] >= 120, "killed while it writes its checkpoint")
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"] if mount["name"] in volumes}
        check(mounts.get("/dev/shm", {}).get("emptyDir", {}).get("medium") == "Memory", "no shared memory")
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            check(claim is None or claim["claimName"] in claims, "claims no volume")
        output = dict(value.split("=") for name, value in zip(arguments, arguments[1:]) if name == "--set")["output_dir"]
        check("persistentVolumeClaim" in mounts.get("/" + output.split("/")[1], {}), "output_dir goes with the pod")

        actions = {}
        for rule in spec["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes", {"values": [], "containerName": container["name"]})
            check(codes["containerName"] == container["name"], "a rule about no container")
            check(codes["values"] == sorted(set(codes["values"])), "codes must be sorted")
            actions |= {code: rule["action"] for code in codes["values"]}
        check(actions == {2: "FailJob", 3: "FailJob", 4: "FailJob", 5: "FailJob", 75: "Ignore"}, "wrong codes")
        if spec.get("completionMode") != "Indexed":
            check("--nnodes" not in arguments, "several hosts of one pod")
            continue

        hosts, port = spec["completions"], int(option(arguments, "--master-port"))
        check(spec["parallelism"] == hosts == int(option(arguments, "--nnodes")), "numbers of hosts differ")
        check(spec["backoffLimit"] >= 2 * hosts, "one lost host uses up the limit")
        gpus = container["resources"]["limits"]["nvidia.com/gpu"]
        check(gpus == int(option(arguments, "--nproc")), "numbers of GPUs differ")
        check(option(arguments, "--node-rank") == "$(JOB_COMPLETION_INDEX)", "all pods are one host")
        check(pod.get("subdomain") in services, "no service names the pods")
        service = services.get(pod.get("subdomain"), {"spec": {"ports": [], "selector": {}}})["spec"]
        check(service.get("clusterIP") == "None" and service.get("publishNotReadyAddresses"), "pods have no names in time")
        check(service["selector"].items() <= spec["template"]["metadata"]["labels"].items(), "the service finds no pod")
        check(port in [each["port"] for each in service["ports"]], "ports differ")
        first = f"{job['metadata']['name']}-0.{pod.get('subdomain')}"
        check(option(arguments, "--master-addr") == first, f"the first pod is {first}")
        waits = {each["name"]: each["value"] for each in pod["initContainers"][0]["env"]}
        check(waits == {"SERVICE": pod.get("subdomain"), "HOSTS": str(hosts)}, "waits for others")
    return wrong


# 1.29 has podReplacementPolicy without a feature gate
@pytest.mark.parametrize("version", ["1.29", "1.33", kubernetes_validate.latest_version()])
def test_manifests_keep_the_schema(version):
    documents = manifests()
    assert [each["kind"] for each in documents] == ["PersistentVolumeClaim"] * 3 + ["Job", "Service", "Job"]
    assert schema_complaints(documents, version) == []


def test_manifests_agree_with_themselves():
    assert complaints(manifests()) == []


def spoil(*path, value):
    documents = manifests()
    place = documents[-2 if path[0] == "service" else -1]["spec"]
    for key in path[1:-1]:
        place = place[key]
    place[path[-1]] = value
    return documents


POD = ("job", "template", "spec")


@pytest.mark.parametrize(
    "path, value",
    [
        (("job", "parallelism"), "two"),
        (("job", "backofLimit"), 3),
        ((*POD, "containers", 0, "args"), "run"),
        ((*POD, "containers", 0, "resources", "limits"), ["nvidia.com/gpu"]),
        ((*POD, "restartPolicy"), 0),
        (("service", "ports", 0, "port"), "http"),
        (("service", "clusterIp"), "None"),
    ],
)
def test_schema_refuses(path, value):
    assert schema_complaints(spoil(*path, value=value), "1.33") != []


@pytest.mark.parametrize(
    "path, value, complaint",
    [
        ((*POD, "subdomain"), "tunes", "no service"),
        (("job", "completionMode"), "NonIndexed", "several hosts of one pod"),
        (("job", "completions"), 3, "numbers of hosts"),
        (("service", "ports", 0, "port"), 29501, "ports"),
        (("service", "selector"), {"app": "other"}, "finds no pod"),
        (("service", "publishNotReadyAddresses"), False, "in time"),
        ((*POD, "containers", 0, "resources", "limits", "nvidia.com/gpu"), 4, "GPUs"),
        ((*POD, "containers", 0, "volumeMounts", 0, "name"), "model", "mounts"),
        ((*POD, "volumes", 2, "persistentVolumeClaim", "claimName"), "outputs", "claims"),
        ((*POD, "volumes", 2), {"name": "output", "emptyDir": {}}, "goes with the pod"),
        ((*POD, "containers", 0, "name"), "trainer", "no container"),
        (("job", "podFailurePolicy", "rules", 0, "onExitCodes", "values"), [3, 2], "sorted"),
        (("job", "podFailurePolicy", "rules", 1, "action"), "FailJob", "codes"),
        ((*POD, "initContainers", 0, "env", 1, "value"), "1", "waits"),
        ((*POD, "terminationGracePeriodSeconds"), 30, "killed while"),
        ((*POD, "securityContext", "runAsUser"), 1000, "user"),
    ],
)
def test_complains_of(path, value, complaint):
    assert complaint in "\n".join(complaints(spoil(*path, value=value)))


@pytest.mark.parametrize("job", [each for each in manifests() if each["kind"] == "Job"], ids=lambda job: job["metadata"]["name"])
def test_program_takes_the_arguments_of(job, tmp_path):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: str(tmp_path / "absent") for each in container["env"]}
    arguments = [each.replace("$(JOB_COMPLETION_INDEX)", "1") for each in container["args"]]
    said = tune(*arguments, "--dry-run", expect=3, **given).stderr  # command line and recipe are read: 2 if they were wrong
    assert "absent/zephyr-7b-beta" in said


def test_waits_for_the_last_host(tmp_path):
    (waiting,) = manifests()[-1]["spec"]["template"]["spec"]["initContainers"]
    (tmp_path / "asked").write_text("")
    for name, script in {
        # a name that isn't known yet, then one pod's address, then both; three lines an address, as getent has it
        "getent": 'echo "$@" >>asked; pods=$(($(wc -l <asked) - 1)); [ $pods -gt 0 ] || exit 2\n'
        'for i in $(seq $pods); do for kind in STREAM DGRAM RAW; do echo "10.0.0.$i $kind"; done; done',
        "sleep": ":",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    given = {each["name"]: each["value"] for each in waiting["env"]} | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(waiting["command"], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == "ahosts tune\n" * 3
