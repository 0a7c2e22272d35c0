import torch

from mvidx.engine.metrics import Totals, topk_correct


def test_topk_by_hand_and_cut_to_the_classes():
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5]])
    labels = torch.tensor([1, 1, 0])
    assert [int(n) for n in topk_correct(scores, labels, (1, 2))] == [1, 1]
    assert [int(n) for n in topk_correct(scores, labels, (1, 5))] == [1, 3]
    assert [int(n) for n in topk_correct(scores[:, :2], torch.tensor([1, 0, 0]))] == [2, 3]


def test_totals_weigh_by_count_and_survive_a_save():
    totals = Totals()
    totals.add(2, loss=torch.tensor(4.0))
    again = Totals()
    again.load_state_dict(totals.state_dict(), torch.device("cpu"))
    again.add(6, loss=torch.tensor(4.0))
    assert again.means() == {"loss": 1.0}
    assert totals.means() == {"loss": 2.0}
    totals.clear()
    assert totals.means() == {}
