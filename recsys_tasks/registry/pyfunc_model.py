"""The registered model as an MLflow pyfunc, logged as code so that loading it unpickles nothing.

Input columns: `history` and `session` (item ids, oldest first), `history_times` and `now` (start of the session;
seconds since 1970), `k` (number of items). Output columns: `item_ids` and `scores`, best first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from recsys_tasks.engine.bundle import VOCABULARY, Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import VIEW


class SessionRecommender(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Recommends with the endpoint's engine, from the actions in the input row alone."""

    def load_context(self, context: Any) -> None:
        """Loads the ONNX graphs and the vocabulary from the model's artifacts."""
        folder = Path(context.artifacts["network"])
        self._engine = Engine(Bundle.from_model(folder, Vocabulary.load(folder / VOCABULARY)))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Returns one list of items per input row."""
        return pd.DataFrame([self._recommend(row) for row in model_input.to_dict("records")])

    def _recommend(self, row: dict[str, Any]) -> dict[str, list[Any]]:
        history = [Action(i, VIEW, float(t)) for i, t in zip(row["history"], row["history_times"], strict=True)]
        session = [Action(item, VIEW, float(row["now"])) for item in row["session"]]
        answer = self._engine.recommend(None, history, session, float(row["now"]), ListOptions(int(row["k"])))
        return {"item_ids": [item.item_id for item in answer.items], "scores": [item.score for item in answer.items]}


mlflow.models.set_model(SessionRecommender())
