import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.hdfs.MiniDFSCluster;

/** A name node and two data nodes on loopback; takes commands by standard input, and ends with it. */
public final class MiniHdfs {
    public static void main(String[] arguments) throws Exception {
        Configuration configuration = new Configuration();
        // Files of the tests span several blocks.
        configuration.setLong("dfs.blocksize", 1 << 20);
        configuration.setLong("dfs.namenode.fs-limits.min-block-size", 1 << 16);
        // Long directories come in several parts.
        configuration.setInt("dfs.ls.limit", 7);
        MiniDFSCluster cluster = new MiniDFSCluster.Builder(configuration, new File(arguments[0])).numDataNodes(2).build();
        cluster.waitActive();
        FileSystem files = cluster.getFileSystem();
        answer("READY " + cluster.getURI());
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] words = line.split("\t");
            try {
                switch (words[0]) {
                    case "put" -> files.copyFromLocalFile(false, true, new Path(new File(words[1]).toURI()), new Path(words[2]));
                    case "mkdir" -> files.mkdirs(new Path(words[1]));
                    case "remove" -> files.delete(new Path(words[1]), true);
                    case "mode" -> files.setPermission(new Path(words[2]), new FsPermission(words[1]));
                    case "touch" -> files.setTimes(new Path(words[2]), Long.parseLong(words[1]), -1);
                    default -> throw new IllegalArgumentException(words[0]);
                }
                answer("DONE");
            } catch (Exception failed) {
                answer("FAILED " + failed);
            }
        }
        cluster.shutdown();
        System.exit(0);
    }

    private static void answer(String line) {
        System.out.println("\n" + line);
        System.out.flush();
    }
}
