"""What a training imports when it needs it, for the server from which the tests' processes are forked."""

from components.core.models.torchvision_cpu import allow_torchvision_import

allow_torchvision_import()

import open_clip.transformer  # noqa: E402, F401
import timm.models.vision_transformer  # noqa: E402, F401
import torch._dynamo  # noqa: E402
import torch.distributed.fsdp  # noqa: E402
import torch.nn.parallel  # noqa: E402
import torch.utils.checkpoint  # noqa: E402, F401
import transformers.models.llama.modeling_llama  # noqa: E402, F401
