"""What a training step makes of its batch: the trainer's own steps on a real TransferQueue, which they share."""
