"""Process models for Lava's simulation, with what its own lack: soft resets, rest, and a record of every step.

Part of `worker.py`; it runs in Lava's Python.
"""

import numpy as np
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.lif.models import PyLifModelBitAcc, PyLifRefractoryModelFloat, PyLifResetModelBitAcc
from lava.proc.lif.process import LIF, LIFRefractory, LIFReset


class Soft:
    """A neuron that fires keeps what exceeds its threshold."""

    def reset_voltage(self, spike_vector):
        """Take one threshold off the voltage of the neurons that fired, however far above it they were."""
        self.v[spike_vector] -= np.int32(np.ravel(self.effective_vth)[0])


class Refractory:
    """Lava's rule of its floating-point LIFRefractory, over the fixed-point arithmetic of its other models."""

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.rest = int(proc_params["rest"])
        self.rest_end = None

    def run_spk(self):
        """Forget the rest where a sample begins."""
        interval = getattr(self, "reset_interval", 0)
        if self.rest_end is None or (interval and self.time_step % interval == self.reset_offset):
            self.rest_end = np.zeros(self.v.shape, int)
        super().run_spk()

    def subthr_dynamics(self, activation_in):
        """Hold the voltage of neurons at rest."""
        before, resting = self.v.copy(), self.rest_end >= self.time_step
        super().subthr_dynamics(activation_in)
        self.v[resting] = before[resting]

    def reset_voltage(self, spike_vector):
        """Send the neurons that fired to rest."""
        super().reset_voltage(spike_vector)
        self.rest_end[spike_vector] = self.time_step + self.rest


class Recorder:
    """Keeps every step's spikes, currents and voltages, and writes them when the last step is done.

    Lava's own monitors say the same, but take 0.1 ms for each value.
    """

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.path, self.total = proc_params["keep"]
        self.kept = []

    def reset_voltage(self, spike_vector):
        """Keep which neurons fired."""
        self.fired = np.array(spike_vector, np.int32)
        super().reset_voltage(spike_vector)

    def process_spikes(self, spike_vector):
        """Keep them, as the floating-point refractory model calls it."""
        self.fired = np.array(spike_vector, np.int32)
        super().process_spikes(spike_vector)

    def run_spk(self):
        """Keep the step."""
        super().run_spk()
        self.kept.append((self.fired, self.u.copy(), self.v.copy()))
        if self.time_step == self.total:
            spikes, u, v = (np.stack(kind) for kind in zip(*self.kept, strict=True))
            np.savez(self.path, spikes=spikes, u=u, v=v)


class SoftLif(Soft, PyLifModelBitAcc):
    """Lava's LIF with a soft reset."""


class SoftLifReset(Soft, PyLifResetModelBitAcc):
    """Lava's LIFReset with a soft reset."""


MODELS = {
    ("LIF", "hard"): PyLifModelBitAcc,
    ("LIF", "soft"): SoftLif,
    ("LIFReset", "hard"): PyLifResetModelBitAcc,
    ("LIFReset", "soft"): SoftLifReset,
}


class RunConfig(Loihi2SimCfg):
    """Lava's own fixed-point models, with the additions above for what it lacks.

    Chosen here, since Lava would execute every .py file in the folder of a Process class of our own.
    """

    def select(self, process, proc_models):
        """Return the model that runs a process."""
        settings = process.proc_params
        if isinstance(process, LIFRefractory):
            model = PyLifRefractoryModelFloat
        elif isinstance(process, (LIF, LIFReset)):
            model = MODELS[type(process).__name__, settings["reset"]]
            if settings["rest"]:
                model = type("Resting" + model.__name__, (Refractory, model), {})
        else:
            return super().select(process, proc_models)
        return type("Recorded" + model.__name__, (Recorder, model), {}) if settings["keep"] else model
