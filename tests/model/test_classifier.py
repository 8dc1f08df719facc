"""What the classifier's outputs mean."""

from typing import Literal

import pytest
import torch
from networks import small_network

from hgisam.labels import SUBTYPES, Subtype
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier, pooled
from hgisam.model.swin import SwinOptions


def test_one_output_is_the_log_odds_of_any() -> None:
    model = small_network(outputs=1)
    logits = torch.tensor([[-1.0], [2.0]])
    assert model.targets == (Subtype.ANY,)
    assert torch.equal(model.hemorrhage_logit(logits), logits[:, 0])
    assert torch.equal(model.probabilities(logits), logits.sigmoid())


def test_two_outputs_are_a_softmax_and_the_second_is_hemorrhage() -> None:
    model = small_network(outputs=2)
    logits = torch.tensor([[3.0, 1.0]])
    expected = torch.exp(torch.tensor(1.0)) / (torch.exp(torch.tensor(1.0)) + torch.exp(torch.tensor(3.0)))
    assert model.hemorrhage_logit(logits).item() == 1.0
    torch.testing.assert_close(model.probabilities(logits), expected.view(1, 1))
    torch.testing.assert_close(model.log_odds(logits).sigmoid(), expected.view(1))


def test_six_outputs_follow_the_order_of_subtypes() -> None:
    model = small_network(outputs=6)
    logits = torch.arange(6.0)[None]
    assert model.targets == (*SUBTYPES, Subtype.ANY)
    assert model.hemorrhage_logit(logits).item() == 5.0
    assert model.hemorrhage_logit(logits, Subtype.SUBDURAL).item() == 4.0
    assert model.log_odds(logits, Subtype.EPIDURAL).item() == 0.0
    torch.testing.assert_close(model.probabilities(logits), logits.sigmoid())


def test_a_target_that_is_not_told_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of the classifier's targets"):
        small_network(outputs=1).hemorrhage_logit(torch.zeros(1, 1), Subtype.SUBDURAL)


def test_token_logits_lie_where_their_pixels_are() -> None:
    """A change in one corner of the image changes the near token of stage 1 most."""
    torch.manual_seed(1)
    swin = SwinOptions(img_size=64, window=4, embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4))
    model = HemorrhageClassifier(ClassifierOptions(swin=swin), token_heads=True).eval()
    images = torch.zeros(2, 3, 64, 64)
    images[1, :, 40:44, 8:12] = 1.0
    with torch.no_grad():
        logits, tokens = model.forward_with_tokens(images)
        assert torch.equal(logits, model(images))
    assert [tuple(t.shape) for t in tokens] == [(2, 16, 16), (2, 8, 8), (2, 4, 4), (2, 2, 2)]
    change = (tokens[0][1] - tokens[0][0]).abs()
    assert divmod(int(change.argmax()), 16) == (10, 2)


def test_a_token_loss_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    swin = SwinOptions(img_size=64, window=4, embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), stem="deep")
    model = HemorrhageClassifier(ClassifierOptions(swin=swin), token_heads=True)
    logits, tokens = model.forward_with_tokens(torch.rand(2, 3, 64, 64))
    (logits.sum() + sum(t.square().sum() for t in tokens)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("pooling", ["mean", "log_sum_exp"])
def test_pooling_as_written_down(pooling: Literal["mean", "log_sum_exp"]) -> None:
    torch.manual_seed(0)
    swin = SwinOptions(img_size=64, window=4, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 2))
    model = HemorrhageClassifier(ClassifierOptions(swin=swin, pooling=pooling)).double().eval()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        logits = model(images)
        *_, tokens = model.swin.stages(images)
        per_token = model.head(model.swin.norm(tokens))
    by_hand = per_token.mean(dim=1) if pooling == "mean" else per_token.exp().mean(dim=1).log()
    torch.testing.assert_close(logits, by_hand.float())


def test_blood_under_one_token_is_not_averaged_away() -> None:
    per_token = torch.full((1, 36, 1), -5.0)
    per_token[0, 7] = 8.0
    assert float(pooled(per_token, "mean")) < 0 < float(pooled(per_token, "log_sum_exp"))


def test_token_logits_need_token_heads() -> None:
    with pytest.raises(ValueError, match="token_heads=True"):
        small_network().forward_with_tokens(torch.zeros(1, 3, 64, 64))


def test_a_network_without_the_stages_of_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 stages"):
        ClassifierOptions(swin=SwinOptions(depths=(2, 2), heads=(3, 6)))
