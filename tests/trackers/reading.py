"""What three trackers have stored, read back with their own packages."""

import json
import struct
from pathlib import Path

BLOCK, HEADER = 1 << 15, 7  # of LevelDB's log format, in which W&B writes when it is offline


def tensorboard_steps(folder, key):
    """Return step and value of all scalars that TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(key)]


def mlflow_runs(uri, experiment):
    """Return MLflow's client and all runs of an experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def mlflow_steps(client, run, key):
    """Return step and value of a metric of a run."""
    return sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))


def wandb_steps(folder, key):
    """Return the ids of all runs below a folder, and step and value of all rows with a metric."""
    from wandb.proto.wandb_internal_pb2 import Record

    ids, found = set(), []
    for file in sorted(Path(folder).rglob("*.wandb")):
        for data in records(file.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            items = {item.key or item.nested_key[0]: item for item in record.history.item}
            if key in items:
                step = json.loads(items["_step"].value_json)
                found.append((step, json.loads(items[key].value_json)))
    return ids, sorted(found)


def records(data):
    """Yield the records of a file of W&B: LevelDB's log format after a header of 7 bytes."""
    place, parts = HEADER, []
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if not kind:
            return
        parts.append(data[place + HEADER : place + HEADER + length])
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []
