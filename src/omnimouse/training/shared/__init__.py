"""What every training needs: data order, optimizers, devices, checkpoints, the loop."""
