"""Names that users of Flower, fluke and FL-bench know, and the settings that they mean here."""

from __future__ import annotations

from typing import NamedTuple


class Foreign(NamedTuple):
    """What some names of other frameworks are called here.

    Attributes:
        names: the names, separated by spaces; case, and whether words are joined by `-` or `_`, do
            not matter.
        ours: the settings, separated by spaces; `key=value` for a part.
        how: how a value translates; "" if it stays as it is.
    """

    names: str
    ours: str
    how: str = ""


SHARE = "clients_per_round = fraction x num_clients"
TABLE = {
    "Flower": (
        Foreign("num_server_rounds num_rounds server_rounds", "rounds"),
        Foreign("num_supernodes num_partitions", "num_clients"),
        Foreign("fraction_train fraction_fit fraction_clients", "clients_per_round", SHARE),
        Foreign(
            "min_train_nodes min_fit_clients",
            "clients_per_round min_replies",
            "clients_per_round sampled clients take part, and min_replies of them must answer",
        ),
        Foreign(
            "fraction_evaluate",
            "evaluation.client_fraction",
            "the fraction of all clients, 0.0 to 1.0",
        ),
        Foreign("min_available_clients", "min_available_nodes"),
        Foreign("local_epochs epochs num_epochs", "client.epochs"),
        Foreign("batch_size local_batch_size", "client.batch_size"),
        Foreign("learning_rate lr client_lr", "client.lr"),
        Foreign("proximal_mu mu", "client=fedprox client.mu", "FedProx is a client algorithm here"),
        Foreign("num_cpus", "simulation.client_cpus"),
        Foreign("num_gpus", "simulation.client_gpus"),
        Foreign("IidPartitioner", "partition=iid"),
        Foreign("DirichletPartitioner", "partition=dirichlet partition.alpha partition.min_size"),
        Foreign("min_partition_size", "partition.min_size"),
        Foreign(
            "PathologicalPartitioner num_classes_per_partition",
            "partition=classes-per-client partition.classes_per_client",
        ),
        Foreign(
            "ShardPartitioner num_shards_per_partition",
            "partition=shards partition.shards_per_client",
        ),
        Foreign("NaturalIdPartitioner", "partition=natural"),
        Foreign(
            "LinearPartitioner SquarePartitioner ExponentialPartitioner SizePartitioner "
            "DistributionPartitioner InnerDirichletPartitioner",
            "partition=flwr partition.partitioner",
            "the name of the class is partition.partitioner; partition=quantity has sizes by a law",
        ),
    ),
    "fluke": (
        Foreign("n_rounds", "rounds"),
        Foreign("n_clients", "num_clients"),
        Foreign("eligible_perc", "clients_per_round", SHARE),
        Foreign("protocol", "rounds num_clients clients_per_round"),
        Foreign("exp", "seed device"),
        Foreign("hyperparameters", "client.epochs client.batch_size client.lr model"),
        Foreign(
            "method", "strategy client", "an algorithm has a half on the server and the client"
        ),
        Foreign("dataset", "data"),
        Foreign("sampling_perc", "data.max_examples", "the number of examples, not a share"),
        Foreign("distribution", "partition"),
        Foreign("lblqnt", "partition=classes-per-client partition.classes_per_client"),
        Foreign("qnt", "partition=quantity"),
        Foreign("covshift", "partition=feature-skew"),
        Foreign("client_split", "evaluation.holdout", "the share that a client holds out"),
        Foreign("eval", "evaluation"),
        Foreign("eval_every", "evaluation.every evaluation.client_every"),
        Foreign("clipping", "client.clip_norm"),
        Foreign("scheduler lr_scheduler", "client.lr_schedule client.lr_decay"),
    ),
    "FL-bench": (
        Foreign("global_epoch", "rounds"),
        Foreign("client_num", "num_clients"),
        Foreign("join_ratio", "clients_per_round", SHARE),
        Foreign("local_epoch", "client.epochs"),
        Foreign("common", "rounds clients_per_round client.epochs client.batch_size seed"),
        Foreign("optimizer", "client.optimizer client.lr client.momentum client.weight_decay"),
        Foreign("momentum", "client.momentum"),
        Foreign("weight_decay", "client.weight_decay"),
        Foreign("finetune_epoch", "evaluation.finetune_epochs"),
        Foreign("test_interval", "evaluation.every evaluation.client_every"),
        Foreign("test_ratio", "evaluation.holdout"),
        Foreign("parallel mode num_workers", "simulation.backend simulation.client_cpus"),
        Foreign("ray_cluster_addr", "simulation.address"),
        Foreign("use_cuda", "device", "cuda or cpu"),
        Foreign("alpha dirichlet", "partition=dirichlet partition.alpha"),
        Foreign("min_samples_per_client", "partition.min_size"),
        Foreign("shards", "partition=shards partition.shards_per_client"),
        Foreign("classes", "partition=classes-per-client partition.classes_per_client"),
        Foreign("iid", "partition=iid"),
        Foreign("fmnist", "data=fashion-mnist"),
        Foreign("femnist", "data=leaf"),
    ),
}


def translated(name: str) -> str:
    """Return the end of an error for a name of another framework; "" for any other name.

    >>> translated("eligible-perc")
    '; here it is clients_per_round (clients_per_round = fraction x num_clients)'
    """
    wanted = _plain(name)
    for several in TABLE.values():
        for foreign in several:
            if wanted in map(_plain, foreign.names.split()):
                how = f" ({foreign.how})" if foreign.how else ""
                return f"; here it is {_listed(foreign.ours.split())}{how}"
    return ""


def _plain(name: str) -> str:
    return name.rpartition(".")[2].lower().replace("-", "_")


def _listed(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
