"""How the weights in `moderation/models/weights` are made: data, synthetic texts, training, calibration, measures."""
