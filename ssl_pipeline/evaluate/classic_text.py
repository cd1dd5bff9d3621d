"""What self-supervision on text must beat: counted words, TF-IDF, with logistic regression on the same labels.

Sparck Jones 1972 weighs a word by how few documents have it. The counts of the unlabelled training texts are used as well,
as the encoder used them; the penalty is chosen on the validation split, as the encoder's is.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

if TYPE_CHECKING:
    from ssl_pipeline.pretext.pack import Pack

PENALTIES = (1.0, 10.0, 100.0)
"""scikit-learn's C. Rows have length 1 and few words in common, so that good values are large."""
WORDS = 100_000
"""Most words and pairs of words that are counted, the commonest."""


def texts_of(pack: Pack, split: str) -> list[str]:
    return pq.read_table(pack.path / f"{split}.text.parquet", columns=["text"])["text"].to_pylist()


def tfidf_features(texts: dict[str, list[str]]) -> dict[str, csr_matrix]:
    """Sparse rows of length 1, one a text: words and pairs of words, weighed by the training texts' counts."""
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, max_features=WORDS, sublinear_tf=True, token_pattern=r"\w+", dtype=np.float32
    )
    try:
        vectorizer.fit(texts["train"])
    except ValueError:  # no word stands in two texts
        vectorizer.set_params(min_df=1, analyzer="char", token_pattern=None).fit(texts["train"])
    return {split: vectorizer.transform(of_split) for split, of_split in texts.items()}


def sparse_probe(
    train: csr_matrix, y: np.ndarray, validation: csr_matrix, validation_y: np.ndarray, test: csr_matrix
) -> np.ndarray:
    """Predictions on `test` of the penalty that is best on validation; the first (strongest) of equals."""
    best, answer = -1.0, np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3).fit(train, y)
            score = model.score(validation, validation_y)
            if score > best:
                best, answer = score, model.predict(test)
    return answer
