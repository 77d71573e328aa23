"""The registered model as MLflow loads it: models from code, so that nothing is unpickled.

Input columns: `history` and `session` (item ids, oldest first), `history_times` (seconds since 1970), `now` (when
the session began), `k`. Output: `item_ids` and `scores`, best first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from recsys_tasks.engine.bundle import VOCABULARY, Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.ranking import Wishes
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import VIEW


class SessionRecommender(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Answers by the very engine that the endpoint runs, from what the request alone says."""

    def load_context(self, context: Any) -> None:
        """Reads the graphs and the vocabulary among the model's artifacts."""
        folder = Path(context.artifacts["network"])
        self._engine = Engine(Bundle.of_model(folder, Vocabulary.load(folder / VOCABULARY)))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One list of items for each row."""
        return pd.DataFrame([self._answer(row) for row in model_input.to_dict("records")])

    def _answer(self, row: dict[str, Any]) -> dict[str, list[Any]]:
        past = [Action(i, VIEW, float(t)) for i, t in zip(row["history"], row["history_times"], strict=True)]
        session = [Action(item, VIEW, float(row["now"])) for item in row["session"]]
        found = self._engine.recommend(None, past, session, float(row["now"]), Wishes(int(row["k"])))
        return {"item_ids": [item.item_id for item in found.items], "scores": [item.score for item in found.items]}


mlflow.models.set_model(SessionRecommender())
