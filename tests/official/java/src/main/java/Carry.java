import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Sending and consuming through whatever happens to the brokers. */
final class Carry {
    static final Map<String, Official.Scenario> SCENARIOS = Map.of("carry", official -> new Carry(official).run());

    /** A send goes out this long after the last was answered. */
    private static final long PAUSE_MS = 20;

    private final Official official;
    private final Map<String, AtomicInteger> seen = new ConcurrentHashMap<>();
    private final Set<String> sent = ConcurrentHashMap.newKeySet();
    private final AtomicInteger failed = new AtomicInteger();
    private final Gap writes = new Gap();
    private final Gap reads = new Gap();

    private Carry(Official official) {
        this.official = official;
    }

    /** The longest time between two of many events, the time since the last one included. */
    private static final class Gap {
        private long last = System.nanoTime();
        private long longest;

        synchronized void event() {
            longest = Math.max(longest, Official.millisSince(last));
            last = System.nanoTime();
        }

        synchronized long millis() {
            return Math.max(longest, Official.millisSince(last));
        }

        synchronized void reset() {
            longest = 0;
            last = System.nanoTime();
        }
    }

    private Map<String, Object> soFar() {
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("sent", sent.size());
        result.put("came", seen.size());
        result.put("failed", failed.get());
        result.put("send_gap_ms", writes.millis());
        result.put("read_gap_ms", reads.millis());
        return result;
    }

    private long missing() {
        return sent.stream().filter(body -> !seen.containsKey(body)).count();
    }

    /**
     * Sends and consumes without a pause, says UNDER_LOAD once {@code count} went through, and then answers each line on
     * stdin with how far it is: after "mark" the gaps count anew, and "end" ends the sends. What was answered OK must
     * come; a send may fail, which is told.
     */
    private Map<String, Object> run() throws Exception {
        official.pushConsumer(message -> {
            seen.computeIfAbsent(Official.body(message), unused -> new AtomicInteger()).incrementAndGet();
            reads.event();
            return ConsumeResult.SUCCESS;
        });
        Producer producer = official.producer();
        AtomicInteger next = new AtomicInteger();
        AtomicBoolean stop = new AtomicBoolean();
        List<Thread> senders = new ArrayList<>();
        for (int number = 0; number < 4; number++) {
            Thread sender = new Thread(() -> {
                while (!stop.get()) {
                    send(producer, next.getAndIncrement());
                }
            });
            sender.start();
            senders.add(sender);
        }
        int count = official.count;
        Official.await(() -> sent.size() >= count && seen.size() >= count, Official.PATIENCE);
        Official.say("UNDER_LOAD");
        String word = Official.INPUT.readLine();
        while (word != null && !word.equals("end")) {
            Official.say("SO_FAR " + Official.json(soFar()));
            if (word.equals("mark")) {
                writes.reset();
                reads.reset();
            }
            word = Official.INPUT.readLine();
        }
        stop.set(true);
        for (Thread sender : senders) {
            sender.join();
        }
        Official.await(() -> missing() == 0, Official.PATIENCE);
        Map<String, Object> result = soFar();
        result.put("missing", missing());
        result.put("deliveries", seen.values().stream().mapToInt(AtomicInteger::get).sum());
        return result;
    }

    private void send(Producer producer, int sequence) {
        try {
            producer.send(official.message(sequence, "official"));
            sent.add(Integer.toString(sequence));
            writes.event();
        } catch (ClientException | RuntimeException failure) {
            failed.incrementAndGet();
            failure.printStackTrace();
        }
        try {
            Thread.sleep(PAUSE_MS);
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        }
    }
}
