package edgekit.phone;

import java.util.Map;

/** What an app does for a federation; called on a thread of the line's, one call at a time. */
public interface Rounds {
    /** Return how many examples there are, or -1 not to say. */
    long examples();

    /** A task is here: what is to be learnt, what the training file says of itself, and the file (null: unchanged). */
    void task(String name, Map<String, Object> task, Map<String, Object> training, byte[] graph);

    /**
     * Train a round.
     *
     * @param settings of the round, as LocalSettings in clients/trainer.py
     * @param weights all weights of the network, one after the other
     * @return the update, of the same size
     * @throws Exception it cannot be done; its message goes to the coordinator
     */
    float[] train(long round, Map<String, Object> settings, float[] weights) throws Exception;

    /**
     * A finished model is here.
     *
     * @return what is wrong with it; null if it is taken into use
     */
    String deliver(Map<String, Object> facts, byte[] model);
}
