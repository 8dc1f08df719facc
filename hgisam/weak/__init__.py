"""Weak-label methods: networks that learned from slice labels tell where. One file per method behind one protocol.

A method is its frozen options plus `stage_maps` and `__call__`. To add one: a file, a member of the settings' union.
"""

from hgisam.weak.labeler import SaliencyMaps, WeakLabeler, frozen
from hgisam.weak.self_attention import HGI_SAM, SWIN_SAM, SWIN_SAM_AS_PUBLISHED, SelfAttention

__all__ = [
    "HGI_SAM",
    "SWIN_SAM",
    "SWIN_SAM_AS_PUBLISHED",
    "SaliencyMaps",
    "SelfAttention",
    "WeakLabeler",
    "frozen",
]
