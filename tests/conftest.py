import torch

# Tests compute with small tensors: waiting for a second thread costs more than it gives, much more on a busy machine.
torch.set_num_threads(1)
