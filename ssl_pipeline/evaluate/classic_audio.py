"""The classic for sound: mel-frequency cepstral coefficients and a support vector machine.

    c(i, t) = DCT-II over m of S(m, t),  S the log-mel spectrogram   (Davis and Mermelstein 1980, eq. 1)
    features = mean and standard deviation over t of c(0..19, t)

What self-supervision on sound must beat. Its spectrogram is speech recognition's own, whatever the encoder hears: 26 bands, and
nothing more than 80 dB below the recording's loudest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.fft import dct
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ssl_pipeline.encoders.log_mel import FLOOR, LogMel

if TYPE_CHECKING:
    from ssl_pipeline.encoders.settings_audio import AudioEncoder as Settings

MELS, COEFFICIENTS = 26, 20
DYNAMIC_RANGE = 1e-8
"""Of power: 80 dB."""
PENALTIES = (1.0, 10.0, 100.0)
"""scikit-learn's C: the inverse of the penalty."""
CHUNK = 256


def mfcc_features(waveforms: np.ndarray, settings: Settings, coefficients: int = COEFFICIENTS) -> np.ndarray:
    """int16 `[n, samples]` -> float32 `[n, 2 * coefficients]`: each coefficient's mean, then each one's deviation, over the
    frames that hold any sound."""
    log_mel = LogMel(settings.model_copy(update={"mels": MELS}))
    features = np.zeros((len(waveforms), 2 * coefficients), np.float32)
    with torch.inference_mode():
        for at in range(0, len(waveforms), CHUNK):
            power = log_mel.power(torch.from_numpy(np.array(waveforms[at : at + CHUNK]))).numpy()
            least = DYNAMIC_RANGE * power.max((1, 2), keepdims=True) + FLOOR
            cepstra = dct(np.log(np.maximum(power, least)), axis=1, norm="ortho")[:, :coefficients]
            for row, (cepstrum, sounding) in enumerate(zip(cepstra, power.sum(1) > 0, strict=True), at):
                if sounding.any():
                    heard = cepstrum[:, sounding]  # [coefficients, frames]
                    features[row] = np.concatenate([heard.mean(1), heard.std(1)])
    return features


def svc_probe(
    train: np.ndarray, y: np.ndarray, validation: np.ndarray, validation_y: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Predictions on `test` of a support vector machine with Gaussian kernel on standardised features, with the penalty that
    is best on validation; the first (strongest) of equals."""
    best, answer = -1.0, np.empty(0)
    for penalty in PENALTIES:
        model = make_pipeline(StandardScaler(), SVC(C=penalty)).fit(train, y)
        score = model.score(validation, validation_y)
        if score > best:
            best, answer = score, model.predict(test)
    return answer
