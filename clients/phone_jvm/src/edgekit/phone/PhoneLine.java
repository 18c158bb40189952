package edgekit.phone;

import java.net.URI;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** The line to a gateway: it says who this is, answers rounds, and comes back by itself. */
public final class PhoneLine {
    private static final long FIRST_WAIT_MS = 1_000;
    private static final long LONGEST_WAIT_MS = 30_000;
    private static final int REFUSED = 4401;
    private static final int LEFT = 4410;
    private static final int ELSEWHERE = 4409;

    /** An open WebSocket. */
    public interface Socket {
        void send(byte[] content) throws Exception;

        void close();
    }

    /** Opens WebSockets: java.net.http in Sockets, OkHttp on Android. */
    public interface Opener {
        /** Connect; messages and at last the close code (1006 for a broken link) go to the consumers. */
        Socket open(URI address, Consumer<byte[]> message, Consumer<Integer> closed) throws Exception;
    }

    /** Keeps the phone's identity between starts: nobody else may read it. */
    public interface Keeper {
        /** Return "phone" and "secret", or an empty map. */
        Map<String, Object> identity();

        void keep(Map<String, Object> identity);
    }

    private final URI address;
    private final String ticket;
    private final String agent;
    private final Opener opener;
    private final Keeper keeper;
    private final Rounds rounds;
    private volatile boolean stopped;
    private volatile Socket socket;
    private String task = "";

    /**
     * @param link as the gateway shows it: https://HOST:PORT/phone/#t=TICKET; without a ticket for a phone that is known
     * @param agent what this is, in two words
     */
    public PhoneLine(String link, String agent, Opener opener, Keeper keeper, Rounds rounds) {
        URI parts = URI.create(link);
        String scheme = "https".equals(parts.getScheme()) ? "wss" : "ws";
        this.address = URI.create(scheme + "://" + parts.getAuthority() + "/line");
        String fragment = parts.getFragment() == null ? "" : parts.getFragment();
        this.ticket = fragment.startsWith("t=") ? fragment.substring(2) : "";
        this.agent = agent;
        this.opener = opener;
        this.keeper = keeper;
        this.rounds = rounds;
    }

    /**
     * Take part until `stop`, or until the gateway does not want this phone.
     *
     * @return why it ended, for people
     */
    public String run() throws InterruptedException {
        long wait = FIRST_WAIT_MS;
        while (!stopped) {
            BlockingQueue<Object> heard = new LinkedBlockingQueue<>();
            String refusal = "";
            boolean welcomed = false;
            try {
                socket = opener.open(address, heard::add, heard::add);
                send("hello", hello());
                Object next = heard.take();
                while (next instanceof byte[]) {
                    Frames.Frame frame = Frames.unpack((byte[]) next);
                    if (frame.type.equals("refused")) refusal = String.valueOf(frame.facts.get("reason"));
                    if (frame.type.equals("welcome")) {
                        welcomed = true;
                        wait = FIRST_WAIT_MS;
                    }
                    answer(frame);
                    next = heard.take();
                }
                int code = (Integer) next;
                if (code == REFUSED || code == LEFT || code == ELSEWHERE) return refusal.isEmpty() ? "left" : refusal;
            } catch (InterruptedException error) {
                throw error;
            } catch (Exception error) {
                refusal = String.valueOf(error.getMessage());
            } finally {
                if (socket != null) socket.close();
            }
            if (stopped) break;
            if (!refusal.isEmpty() && welcomed) wait = LONGEST_WAIT_MS; // it did not understand us: not at once again
            TimeUnit.MILLISECONDS.sleep((long) (wait * (0.5 + Math.random() / 2)));
            wait = Math.min(2 * wait, LONGEST_WAIT_MS);
        }
        return "stopped";
    }

    /** End, and stay known to the gateway. */
    public void stop() {
        stopped = true;
        Socket open = socket;
        if (open != null) open.close();
    }

    /** Leave for good: the gateway and the coordinator forget this phone. */
    public void leave() throws Exception {
        send("leave", Map.of());
    }

    private Map<String, Object> hello() {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("protocol", (long) Frames.VERSION);
        Map<String, Object> identity = keeper.identity();
        if (identity.isEmpty()) {
            facts.put("ticket", ticket);
            facts.put("agent", agent);
        } else {
            facts.putAll(identity);
        }
        if (!task.isEmpty()) facts.put("has", task);
        return facts;
    }

    private void answer(Frames.Frame frame) throws Exception {
        Map<String, Object> facts = frame.facts;
        switch (frame.type) {
            case "welcome":
                if (facts.get("secret") instanceof String) {
                    keeper.keep(Map.of("phone", facts.get("phone"), "secret", facts.get("secret")));
                }
                break;
            case "task":
                task = (String) facts.get("name");
                Frames.Array graph = frame.arrays.get("graph");
                rounds.task(task, object(facts.get("task")), object(facts.get("training")), graph == null ? null : graph.bytes);
                long examples = rounds.examples();
                send("ready", examples < 0 ? Map.of() : Map.of("examples", examples));
                break;
            case "progress":
                Object named = facts.get("task");
                if (named instanceof String && !((String) named).isEmpty() && !named.equals(task)) send("want", Map.of());
                break;
            case "train":
                train(frame);
                break;
            case "deliver":
                Map<String, Object> said = new LinkedHashMap<>();
                said.put("id", facts.get("id"));
                String problem = rounds.deliver(facts, frame.arrays.get("model").bytes);
                if (problem != null) said.put("problem", problem);
                send("delivered", said);
                break;
            default: // a newer gateway may tell more
        }
    }

    private void train(Frames.Frame frame) throws Exception {
        Map<String, Object> said = new LinkedHashMap<>();
        said.put("id", frame.facts.get("id"));
        float[] update;
        try {
            if (!task.equals(frame.facts.get("task"))) throw new IllegalStateException("this phone has another task");
            float[] weights = frame.arrays.get("w").floats();
            update = rounds.train((Long) frame.facts.get("round"), object(frame.facts.get("settings")), weights);
        } catch (Exception error) {
            said.put("problem", String.valueOf(error.getMessage()));
            send("failed", said);
            return;
        }
        if (rounds.examples() >= 0) said.put("examples", rounds.examples());
        socket.send(Frames.pack(new Frames.Frame("update", said, Map.of("w", Frames.Array.of(update, update.length)))));
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> object(Object found) {
        return (Map<String, Object>) found;
    }

    private void send(String type, Map<String, Object> facts) throws Exception {
        socket.send(Frames.pack(new Frames.Frame(type, facts)));
    }
}
