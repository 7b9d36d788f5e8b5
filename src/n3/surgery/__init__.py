"""Surgery: host functions that change the shapes of networks, optimiser state included."""

from n3.surgery.compact import CompactMLP as CompactMLP
from n3.surgery.compact import compact as compact
from n3.surgery.compact import compact_state as compact_state
from n3.surgery.expand import expand as expand
from n3.surgery.export import export as export
from n3.surgery.export import load_compact as load_compact
from n3.surgery.export import save_compact as save_compact
from n3.surgery.prune import Pruned as Pruned
from n3.surgery.prune import Removal as Removal
from n3.surgery.prune import prune as prune
